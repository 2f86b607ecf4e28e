// SPDX-License-Identifier: Apache-2.0
// Shadow attacks on tiny nets: which server nets a shadow uses, what it learns, how subsets are
// enumerated, screened and ordered.
#include "attacks/split/shadow.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <set>

#include "attacks/split/decoding.h"
#include "attacks/split/registry.h"
#include "attacks/split/shadow_enumerate.h"
#include "base/error.h"
#include "base/threads.h"
#include "nn/core/rng.h"
#include "nn/data/loader.h"
#include "tests/attacks/split/attacks.h"
#include "tests/support/compare.h"

namespace ens::test {
namespace {

ModelSpec tiny_model(const Dataset& data) {
  ModelSpec model;
  model.width = 2;
  model.image_size = data.width;
  model.mean = data.mean;
  model.stddev = data.stddev;
  return model;
}

class Shadow : public ::testing::Test {
 protected:
  Shadow() {
    set_compute_threads(1);  // nets this small gain nothing from more
    DataOptions options;
    options.name = "shapes";
    options.image_size = 16;
    options.limit = 120;
    data_ = load_dataset(options, DataSplit::kTrain);
    victim_.model = tiny_model(data_);
    victim_.public_data = &data_;
    victim_.bodies = {body(1), body(2), body(3)};
    Shape feature = smashed_shape(victim_.model, victim_.split);
    victim_.subset = {0, 2};
    victim_.observed = uniform({5, feature[0], feature[1], feature[2]}, 7);
    context_.settings.mutable_shadow()->set_epochs(1);
    context_.settings.mutable_decoder()->set_epochs(1);
    context_.settings.mutable_decoder()->set_channels(16);
    context_.settings.mutable_decoder()->set_blocks(1);
    context_.settings.set_batch(12);
    context_.settings.mutable_shadow_enumerate()->set_screen_images(36);
    context_.settings.mutable_shadow()->set_starts(2);
    context_.settings.mutable_shadow()->set_start_images(24);
  }

  ServerView server_view(const SplitVictim& victim) const {
    ServerView view;
    grant(victim, context_, view);
    return view;
  }

  std::shared_ptr<Sequential> body(uint64_t seed) const {
    Rng rng(seed);
    auto net = build_body(victim_.model, victim_.split, rng);
    net->freeze();
    return net;
  }

  // Two classes, dark and bright.
  void make_classes_easy() {
    for (int64_t i = 0; i < data_.count(); ++i) {
      int32_t& label = data_.labels[static_cast<size_t>(i)];
      label %= 2;
      std::fill_n(data_.pixels.begin() + i * data_.image_size(), data_.image_size(),
                  static_cast<uint8_t>(label == 0 ? 40 : 200));
    }
  }

  // A shadow's features of the first public images.
  std::vector<float> features(const SplitVictim& victim, const std::vector<int>& nets) const {
    const TrainedShadow shadow =
        train_shadow(server_view(victim), context_, split_public(data_), nets, false, "test");
    return shadow.features(Var(images_of(data_, 0, 4))).value().to_vector();
  }

  Dataset data_;
  SplitVictim victim_;
  AttackContext context_;
};

TEST_F(Shadow, PublicImagesAreSplitWithoutOverlap) {
  Dataset numbered = data_;
  for (int64_t i = 0; i < numbered.count(); ++i) {
    std::fill_n(numbered.pixels.begin() + i * numbered.image_size(), numbered.image_size(),
                static_cast<uint8_t>(i));
  }
  const PublicSplit split = split_public(numbered);
  EXPECT_EQ(split.held_out.count(), held_out_count(numbered.count()));
  std::multiset<int> seen;
  for (const Dataset* part : {&split.train, &split.held_out}) {
    for (int64_t i = 0; i < part->count(); ++i)
      seen.insert(part->pixels[static_cast<size_t>(i * part->image_size())]);
  }
  EXPECT_EQ(std::ssize(seen), numbered.count());
  EXPECT_EQ(std::ssize(std::set<int>(seen.begin(), seen.end())), numbered.count());
  EXPECT_THROW(split_public(data_.head(1)), Error);
}

TEST_F(Shadow, UsesExactlyTheGivenNets) {
  const std::vector<float> before = features(victim_, {0, 2});
  SplitVictim other = victim_;
  other.bodies[1] = body(10);
  EXPECT_EQ(features(other, {0, 2}), before);
  other = victim_;
  other.bodies[0] = body(10);
  EXPECT_NE(features(other, {0, 2}), before);
  other = victim_;
  other.bodies[2] = body(10);
  EXPECT_NE(features(other, {0, 2}), before);
}

TEST_F(Shadow, TrainingLowersTheHeldOutCrossEntropy) {
  const PublicSplit data = split_public(data_);
  context_.settings.mutable_shadow()->set_lr(0);
  const TrainedShadow fresh =
      train_shadow(server_view(victim_), context_, data, {0}, false, "test");
  context_.settings.mutable_shadow()->set_lr(0.02);
  context_.settings.mutable_shadow()->set_epochs(12);
  const TrainedShadow trained =
      train_shadow(server_view(victim_), context_, data, {0}, false, "test");
  EXPECT_LT(trained.cross_entropy, fresh.cross_entropy - 0.02);
  // The reported numbers against the logits themselves.
  const Tensor logits =
      trained.logits(Var(images_of(data.held_out, 0, data.held_out.count()))).value();
  const std::vector<float> l = logits.to_vector();
  double loss = 0, right = 0;
  const int64_t k = logits.dim(1);
  for (int64_t i = 0; i < data.held_out.count(); ++i) {
    const auto row = l.begin() + i * k;
    double total = 0;
    for (int64_t j = 0; j < k; ++j) total += std::exp(static_cast<double>(row[j]));
    const int32_t label = data.held_out.labels[static_cast<size_t>(i)];
    loss += std::log(total) - row[label];
    right += std::max_element(row, row + k) - row == label ? 1 : 0;
  }
  EXPECT_NEAR(trained.cross_entropy, loss / static_cast<double>(data.held_out.count()), 1e-4);
  EXPECT_NEAR(trained.accuracy, right / static_cast<double>(data.held_out.count()), 1e-9);
}

TEST_F(Shadow, FeaturesAreDifferentiableInTheImages) {
  const TrainedShadow shadow =
      train_shadow(server_view(victim_), context_, split_public(data_), {1}, false, "test");
  const Tensor images = images_of(data_, 0, 2);
  const auto loss = [&](const Tensor& x) { return mean(square(shadow.features(Var(x)))).item(); };
  const Var x(images, true);
  mean(square(shadow.features(x))).backward();
  // Along the signs of the gradient, the loss rises by the gradient's absolute sum.
  const std::vector<float> g = x.grad().to_vector();
  double slope = 0;
  for (float value : g) slope += std::abs(value);
  const auto moved = [&](float by) {
    Tensor out = images.clone();
    for (size_t i = 0; i < g.size(); ++i) out.span<float>()[i] += by * (g[i] > 0 ? 1.0f : -1.0f);
    return out;
  };
  constexpr float kStep = 5e-4f;
  const double numeric = (loss(moved(kStep)) - loss(moved(-kStep))) / (2 * kStep);
  ASSERT_GT(slope, 1e-2);
  EXPECT_NEAR(slope, numeric, 0.03 * slope);
}

TEST_F(Shadow, TheSelectorLearnsFromNetsThatAnswer) {
  for (const NamedTensor& t : victim_.bodies[1]->state())
    std::ranges::fill(Tensor(t.tensor).span<float>(), 0.0f);  // answers zero, whatever it is sent
  make_classes_easy();
  context_.settings.mutable_shadow()->set_lr(0.02);
  context_.settings.mutable_shadow()->set_epochs(12);
  const TrainedShadow shadow =
      train_shadow(server_view(victim_), context_, split_public(data_), {0, 1, 2}, true, "test");
  ASSERT_EQ(shadow.selector.size(), 3u);
  EXPECT_EQ(shadow.selector[1], 1.0f / 3);
  // The loss falls when more is taken of a net whose outputs tell the classes apart.
  EXPECT_GT(shadow.selector[0], 0.5f);
  EXPECT_GT(shadow.selector[2], 0.5f);
  EXPECT_TRUE(train_shadow(server_view(victim_), context_, split_public(data_), {0}, false, "test")
                  .selector.empty());
}

TEST_F(Shadow, TheBestOfSeveralStartsGoesOn) {
  // Without training afterwards what goes on is what was found, and more starts find no worse.
  context_.settings.mutable_shadow()->set_epochs(0);
  context_.settings.mutable_shadow()->set_lr(0.02);
  const PublicSplit data = split_public(data_);
  double before = std::numeric_limits<double>::infinity();
  std::set<double> found;
  for (int starts = 2; starts <= 6; ++starts) {
    context_.settings.mutable_shadow()->set_starts(starts);
    const double now =
        train_shadow(server_view(victim_), context_, data, {0}, false, "test").cross_entropy;
    EXPECT_LE(now, before) << starts << " starts";
    before = now;
    found.insert(now);
  }
  EXPECT_GT(found.size(), 1u) << "the starts are all alike";
}

TEST_F(Shadow, MayStartFromTheHeadOfAnother) {
  const PublicSplit data = split_public(data_);
  const TrainedShadow one =
      train_shadow(server_view(victim_), context_, data, {0, 1}, false, "one");
  context_.settings.mutable_shadow()->set_epochs(0);
  const TrainedShadow two =
      train_shadow(server_view(victim_), context_, data, {2}, false, "two", &one);
  const Var x(images_of(data_, 0, 3));
  EXPECT_EQ(two.features(x).value().to_vector(), one.features(x).value().to_vector());
  EXPECT_NE(two.logits(x).value().to_vector(), one.logits(x).value().to_vector());
}

// ---- batch-norm statistics

TEST(StatisticsMismatch, AgreesWithTheDefinition) {
  Rng rng(1);
  Sequential net;
  net.push(std::make_shared<BatchNorm>(3, true));
  net.push(std::make_shared<Conv2d>(3, 2, 1, ConvSpec{1, 0}, false, rng));
  net.push(std::make_shared<BatchNorm>(2));
  for (uint32_t i = 0; i < 4; ++i) net.forward(Var(uniform({6, 3, 4, 4}, i)));  // statistics move
  net.freeze();
  const Tensor x = filled({5, 3, 4, 4}, Fill::kPositive, 9).tensor();
  BatchNormProbe probe;
  net.forward(Var(x));
  {
    BatchNormProbe other;  // the inner one alone notes
    net.forward(Var(x));
    EXPECT_EQ(other.entries().size(), 2u);
  }
  ASSERT_EQ(probe.entries().size(), 2u);
  EXPECT_EQ(probe.entries()[0].input.value().to_vector(), x.to_vector());

  double expected = 0;
  for (const BatchNormProbe::Entry& e : probe.entries()) {
    const std::vector<float> v = e.input.value().to_vector();
    const int64_t b = e.input.dim(0), c = e.input.dim(1), area = e.input.dim(2) * e.input.dim(3);
    for (int64_t k = 0; k < c; ++k) {
      double sum = 0, squares = 0;
      for (int64_t i = 0; i < b; ++i) {
        for (int64_t j = 0; j < area; ++j) {
          const double value = v[static_cast<size_t>((i * c + k) * area + j)];
          sum += value;
          squares += value * value;
        }
      }
      const double n = static_cast<double>(b * area), m = sum / n;
      const double deviation = std::sqrt(squares / n - m * m);
      const double mu = e.mean.to_vector()[static_cast<size_t>(k)];
      const double sigma = std::sqrt(e.var.to_vector()[static_cast<size_t>(k)]);
      expected += (std::pow((m - mu) / sigma, 2) + std::pow(deviation / sigma - 1, 2)) /
                  static_cast<double>(c) / 2;
    }
  }
  EXPECT_NEAR(statistics_mismatch(probe).item(), expected, 2e-3 * expected);
  EXPECT_THROW(statistics_mismatch(BatchNormProbe()), Error);
}

TEST_F(Shadow, MatchingTheServerNetsStatisticsIsLearnt) {
  // A server net that is used to the features of a client's head.
  Rng rng(4);
  const auto client = build_head(victim_.model, victim_.split, rng);
  const auto used = build_body(victim_.model, victim_.split, rng);
  {
    NoGrad no_grad;
    for (int i = 0; i < 30; ++i)
      used->forward(client->forward(Var(images_of(data_, (i % 5) * 24, 24))));
  }
  used->freeze();
  victim_.bodies[0] = used;
  context_.settings.mutable_shadow()->set_epochs(6);
  context_.settings.mutable_shadow()->set_lr(0.02);
  const PublicSplit data = split_public(data_);
  const auto mismatch = [&](float weight) {
    context_.settings.mutable_shadow()->set_bn_weight(weight);
    const TrainedShadow shadow =
        train_shadow(server_view(victim_), context_, data, {0}, false, "test");
    NoGrad no_grad;
    const Var z = shadow.features(Var(images_of(data.train, 0, data.train.count())));
    BatchNormProbe probe;
    used->forward(z);
    return statistics_mismatch(probe).item();
  };
  EXPECT_LT(mismatch(10), 0.7f * mismatch(0));
}

// ---- subsets

// Every subset is with or without the last member.
std::vector<std::vector<int>> naive_subsets(int n) {
  if (n == 0) return {{}};
  std::vector<std::vector<int>> all = naive_subsets(n - 1);
  const size_t count = all.size();
  for (size_t i = 0; i < count; ++i) {
    std::vector<int> with = all[i];
    with.push_back(n - 1);
    all.push_back(with);
  }
  return all;
}

TEST(Subsets, AgreeWithARecursion) {
  for (int n = 1; n <= 8; ++n) {
    for (const std::vector<int>& sizes : {std::vector<int>{}, std::vector<int>{n},
                                          std::vector<int>{1, n}, std::vector<int>{(n + 1) / 2}}) {
      std::vector<std::vector<int>> expected = naive_subsets(n);
      std::erase_if(expected, [&](const std::vector<int>& s) {
        return s.empty() ||
               (!sizes.empty() && std::ranges::find(sizes, std::ssize(s)) == sizes.end());
      });
      std::ranges::sort(expected, [](const auto& a, const auto& b) {
        return a.size() != b.size() ? a.size() < b.size() : a < b;
      });
      EXPECT_EQ(enumerate_subsets(n, sizes), expected) << "n = " << n;
    }
  }
  EXPECT_EQ(enumerate_subsets(10, {4}).size(), 210u);
  EXPECT_EQ(enumerate_subsets(10, {}).size(), 1023u);
}

TEST(Subsets, ImpossibleRequestsAreRefused) {
  ENS_EXPECT_ERROR(enumerate_subsets(4, {5}), "size 5");
  ENS_EXPECT_ERROR(enumerate_subsets(4, {2, 0}), "size 0");
  ENS_EXPECT_ERROR(enumerate_subsets(40, {}), "100000");
  EXPECT_EQ(enumerate_subsets(40, {1, 40}).size(), 41u);
}

TEST(Subsets, TheBestComeFirst) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> merits = {-3, nan, -1, -2, -1, -9};
  EXPECT_EQ(best_of(merits, 3), (std::vector<size_t>{2, 4, 3}));
  EXPECT_EQ(best_of(merits, 100), (std::vector<size_t>{2, 4, 3, 0, 5, 1}));
  EXPECT_TRUE(best_of(merits, 0).empty());
}

TEST(Subsets, Names) {
  EXPECT_EQ(subset_name({3}), "net 3");
  EXPECT_EQ(subset_name({0, 3, 11}), "nets 0+3+11");
}

// ---- the attacks

class ShadowAttacks : public Shadow {
 protected:
  std::vector<Reconstruction> run(const std::string& name) {
    auto attack = make_attack(name);
    std::atomic<int64_t> done{0};
    context_.on_progress = [&](int64_t images, const std::string&) { done += images; };
    const std::vector<Reconstruction> all = attack->run(victim_, context_);
    context_.on_progress = nullptr;
    EXPECT_EQ(done, attack->cost(setting_of(victim_), context_.settings).images()) << name;
    for (const Reconstruction& r : all) {
      EXPECT_EQ(r.images.shape(), (Shape{5, 3, 16, 16})) << name;
      EXPECT_TRUE(std::isfinite(r.self_score)) << name;
    }
    return all;
  }
};

TEST_F(ShadowAttacks, OneShadowForEachNet) {
  context_.settings.set_candidates(100);
  const auto all = run("shadow-n1");
  ASSERT_EQ(all.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    const auto r = std::ranges::find(all, subset_name({i}), &Reconstruction::candidate);
    ASSERT_NE(r, all.end());
    const TrainedShadow again =
        train_shadow(server_view(victim_), context_, split_public(data_), {i}, false, r->candidate);
    EXPECT_NEAR(r->self_score, -again.cross_entropy, 1e-6);
    EXPECT_EQ(r->calibration_targets.dim(0), held_out_count(data_.count()));
  }
  EXPECT_TRUE(std::ranges::is_sorted(all, std::greater<>(), &Reconstruction::self_score));
}

// Without the truth an attacker has one answer: that of the shadow which classifies best.
TEST_F(ShadowAttacks, TierQuickDecodesTheAttackersChoiceOnly) {
  context_.settings.set_tier("full");
  const auto all = run("shadow-n1");
  ASSERT_EQ(all.size(), 3u);
  context_.settings.set_tier("quick");
  const auto chosen = run("shadow-n1");
  ASSERT_EQ(chosen.size(), 1u);
  EXPECT_EQ(chosen[0].candidate, all[0].candidate);
  EXPECT_EQ(chosen[0].self_score, all[0].self_score);
  EXPECT_EQ(chosen[0].images.to_vector(), all[0].images.to_vector());
}

TEST_F(ShadowAttacks, ReconstructionsAreBetterThanTheMeanImage) {
  const PublicSplit data = split_public(data_);
  const int64_t pixels = 3 * 16 * 16, count = 5;
  context_.settings.mutable_decoder()->set_epochs(40);
  // The features under attack come from the very head that the attack will find.
  victim_.bodies.resize(1);
  const Tensor truth = images_of(data.held_out, 0, count);
  const TrainedShadow shadow =
      train_shadow(server_view(victim_), context_, data, {0}, false, subset_name({0}));
  victim_.observed = shadow.features(Var(truth)).value();
  const Reconstruction r = run("shadow-n1").at(0);

  const std::vector<float> train = images_of(data.train, 0, data.train.count()).to_vector();
  std::vector<double> mean(static_cast<size_t>(pixels));
  for (size_t i = 0; i < train.size(); ++i) {
    mean[i % mean.size()] += train[i] / static_cast<double>(data.train.count());
  }
  const auto squared_error = [&](const Tensor& images, const auto& guess) {
    const std::vector<float> v = images.to_vector();
    double total = 0;
    for (size_t i = 0; i < v.size(); ++i) total += std::pow(v[i] - guess[i % guess.size()], 2);
    return total / static_cast<double>(v.size());
  };
  EXPECT_LT(squared_error(truth, r.images.to_vector()), 0.7 * squared_error(truth, mean));
  EXPECT_LT(squared_error(r.calibration_targets, r.calibration_images.to_vector()),
            0.7 * squared_error(r.calibration_targets, mean));
}

TEST_F(ShadowAttacks, WorkCountsTheStarts) {
  context_.settings.mutable_shadow()->set_starts(1);
  run("shadow-n1");
  context_.settings.mutable_shadow()->set_starts(3);
  run("shadow-n1");
  context_.settings.mutable_shadow()->set_start_images(1000);  // more than there are
  run("shadow-subset");
}

TEST_F(ShadowAttacks, ScreeningKeepsTheMostPromising) {
  set_compute_threads(2);  // side by side
  set_list(context_.settings.mutable_shadow_enumerate()->mutable_sizes(), {1, 2});
  context_.settings.mutable_shadow_enumerate()->set_keep(100);
  context_.settings.set_candidates(100);
  const auto all = run("shadow-enumerate");
  ASSERT_EQ(all.size(), 6u);
  std::set<std::string> names;
  for (const Reconstruction& r : all) names.insert(r.candidate);
  EXPECT_EQ(names,
            (std::set<std::string>{"net 0", "net 1", "net 2", "nets 0+1", "nets 0+2", "nets 1+2"}));
  context_.settings.mutable_shadow_enumerate()->set_keep(2);
  set_list(context_.settings.mutable_shadow_enumerate()->mutable_sizes(), {2, 1, 2});
  auto attack = make_attack("shadow-enumerate");
  const auto kept = attack->run(victim_, context_);
  ASSERT_EQ(kept.size(), 2u);
  for (const Reconstruction& r : kept) EXPECT_TRUE(names.contains(r.candidate)) << r.candidate;
  EXPECT_GE(kept[0].self_score, kept[1].self_score);
}

TEST_F(ShadowAttacks, AUselessNetDoesNotPassTheScreening) {
  // Only net 2 answers at all: a shadow over the others learns the classes' frequencies at best.
  std::swap(victim_.bodies[0], victim_.bodies[2]);
  make_classes_easy();
  for (size_t i : {0u, 1u}) {
    for (const NamedTensor& t : victim_.bodies[i]->state())
      std::ranges::fill(Tensor(t.tensor).span<float>(), 0.0f);
  }
  set_list(context_.settings.mutable_shadow_enumerate()->mutable_sizes(), {1});
  context_.settings.mutable_shadow_enumerate()->set_keep(1);
  context_.settings.mutable_shadow_enumerate()->set_screen_epochs(12);
  context_.settings.mutable_shadow_enumerate()->set_screen_images(84);
  context_.settings.mutable_shadow()->set_lr(0.02);
  const auto all = make_attack("shadow-enumerate")->run(victim_, context_);
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].candidate, "net 2");
}

TEST_F(ShadowAttacks, AChosenSubsetIsNamedAndTheSecretOneIsNot) {
  auto attack = make_attack("shadow-subset");
  const auto secret = attack->run(victim_, context_);
  EXPECT_EQ(attack->title(), "shadow + decoder, the secret subset known");
  ASSERT_EQ(secret.size(), 1u);
  EXPECT_EQ(secret[0].candidate.find_first_of("0123456789"), std::string::npos)
      << secret[0].candidate;

  set_list(context_.settings.mutable_shadow_subset()->mutable_nets(), {2, 1});
  const auto chosen = run("shadow-subset");
  attack->run(victim_, context_);
  EXPECT_EQ(attack->title(), "shadow + decoder, chosen subset");
  EXPECT_EQ(chosen[0].candidate, "nets 1+2");

  for (const std::vector<int>& bad : {std::vector<int>{3}, {-1, 0}, {1, 1}}) {
    set_list(context_.settings.mutable_shadow_subset()->mutable_nets(), bad);
    ENS_EXPECT_ERROR(attack->run(victim_, context_), "attack.shadow_subset.nets");
  }
  context_.settings.mutable_shadow_subset()->clear_nets();
  victim_.subset.clear();
  ENS_EXPECT_ERROR(attack->run(victim_, context_), "no subset");
}

TEST_F(ShadowAttacks, OneServerNetHasNoSubsets) {
  EXPECT_EQ(run("shadow-adaptive").size(), 1u);
  for (const char* name : {"shadow-adaptive", "shadow-subset", "shadow-enumerate"})
    EXPECT_EQ(make_attack(name)->not_applicable_reason(setting_of(victim_)), "") << name;
  victim_.bodies.resize(1);
  for (const char* name : {"shadow-adaptive", "shadow-subset", "shadow-enumerate"})
    EXPECT_EQ(make_attack(name)->not_applicable_reason(setting_of(victim_)), "one server net only")
        << name;
  EXPECT_EQ(make_attack("shadow-n1")->not_applicable_reason(setting_of(victim_)), "");
}

// A point for every number of shards that share, the last with all nets; what it passes through
// networks is what its cost says.
TEST_F(Shadow, ACoalitionGrowsShardByShard) {
  context_.settings.mutable_coalition()->set_shards(2);
  int64_t done = 0;
  context_.on_progress = [&](int64_t images, const std::string&) { done += images; };
  const std::vector<Reconstruction> curve = make_attack("coalition")->run(victim_, context_);
  ASSERT_EQ(curve.size(), 2u);
  EXPECT_EQ(curve[0].x, 1);
  EXPECT_EQ(curve[1].x, 2);
  EXPECT_TRUE(curve[0].candidate == "c = 1 of 2: net 0" ||
              curve[0].candidate == "c = 1 of 2: nets 1+2")
      << curve[0].candidate;
  EXPECT_EQ(curve[1].candidate, "c = 2 of 2: nets 0+1+2");
  const PublicSplit data = split_public(data_);
  QueryFreeView view;
  grant(victim_, context_, view);
  const Reconstruction whole =
      shadow_reconstruction(view, context_, data, {0, 1, 2}, true, curve[1].candidate);
  EXPECT_EQ(curve[1].images.to_vector(), whole.images.to_vector());
  // More shards than nets: one net each.
  context_.settings.mutable_coalition()->set_shards(50);
  done = 0;
  EXPECT_EQ(make_attack("coalition")->run(victim_, context_).size(), 3u);
  const auto cost = static_cast<double>(
      make_attack("coalition")->cost(setting_of(victim_), context_.settings).images());
  EXPECT_NEAR(static_cast<double>(done), cost, 0.1 * cost);
}

}  // namespace
}  // namespace ens::test
