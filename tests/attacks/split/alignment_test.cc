// SPDX-License-Identifier: Apache-2.0
// Feature alignment: its losses against naive loops and numeric derivatives, and the whole attack
// on small clients whose features give their head away.
#include "attacks/split/alignment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <thread>

#include "attacks/core/evaluator.h"
#include "attacks/split/registry.h"
#include "attacks/split/substitute.h"
#include "base/error.h"
#include "base/threads.h"
#include "nn/data/loader.h"
#include "nn/optim/fit.h"
#include "tests/attacks/split/attacks.h"
#include "tests/support/compare.h"
#include "tests/support/gradcheck.h"

namespace ens {
namespace {

using test::run_on;

using naive::Array;
using test::Fill;
using test::filled;

// ---- losses

struct NaiveMoments {
  double scale = 1;
  Array mean, stddev, covariance;
};

// Straight from the definitions: two passes, every element centred by itself.
NaiveMoments naive_moments(const Array& z) {
  const int64_t n = z.shape[0], c = z.shape[1], h = z.shape[2], w = z.shape[3];
  NaiveMoments m;
  m.mean = m.stddev = Array(Shape{1, c, h, w});
  m.covariance = Array(Shape{c, c});
  std::vector<double> level(static_cast<size_t>(c));
  for (int64_t k = 0; k < c; ++k) {
    for (int64_t y = 0; y < h; ++y) {
      for (int64_t x = 0; x < w; ++x) {
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < n; ++i) mean += z.at(i, k, y, x) / static_cast<double>(n);
        for (int64_t i = 0; i < n; ++i) {
          variance += std::pow(z.at(i, k, y, x) - mean, 2) / static_cast<double>(n);
        }
        m.mean.at(0, k, y, x) = mean;
        m.stddev.at(0, k, y, x) = std::sqrt(variance);
        level[static_cast<size_t>(k)] += mean / static_cast<double>(h * w);
      }
    }
  }
  for (int64_t a = 0; a < c; ++a) {
    for (int64_t b = 0; b < c; ++b) {
      double& sum = m.covariance.v[static_cast<size_t>(a * c + b)];
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t y = 0; y < h; ++y) {
          for (int64_t x = 0; x < w; ++x) {
            sum += (z.at(i, a, y, x) - level[static_cast<size_t>(a)]) *
                   (z.at(i, b, y, x) - level[static_cast<size_t>(b)]) /
                   static_cast<double>(n * h * w);
          }
        }
      }
    }
  }
  return m;
}

double mean_square(const Array& a, const Array& b) {
  double total = 0;
  for (size_t i = 0; i < a.size(); ++i) total += std::pow(a.v[i] - b.v[i], 2);
  return total / static_cast<double>(a.size());
}

double naive_moment_loss(const Array& z, const NaiveMoments& wanted) {
  const NaiveMoments m = naive_moments(z);
  return 10 * mean_square(m.mean, wanted.mean) + 10 * mean_square(m.stddev, wanted.stddev) +
         100 * mean_square(m.covariance, wanted.covariance);
}

double naive_discrepancy(const Array& x, const Array& y) {
  const auto row = [](const Array& a) { return a.size() / static_cast<size_t>(a.shape[0]); };
  const auto distance = [&](const Array& a, int64_t i, const Array& b, int64_t j) {
    double total = 0;
    for (size_t k = 0; k < row(a); ++k) {
      total += std::pow(
          a.v[static_cast<size_t>(i) * row(a) + k] - b.v[static_cast<size_t>(j) * row(b) + k], 2);
    }
    return total;
  };
  const auto average = [&](const Array& a, const Array& b, const auto& f) {
    double total = 0;
    for (int64_t i = 0; i < a.shape[0]; ++i) {
      for (int64_t j = 0; j < b.shape[0]; ++j) total += f(distance(a, i, b, j));
    }
    return total / static_cast<double>(a.shape[0] * b.shape[0]);
  };
  const double s = average(y, y, [](double d) { return d; });
  const auto kernel = [&](double d) {
    double total = 0;
    for (double k : {0.25, 0.5, 1.0, 2.0, 4.0}) total += std::exp(-d / (k * s)) / 5;
    return total;
  };
  return average(x, x, kernel) + average(y, y, kernel) - 2 * average(x, y, kernel);
}

TEST(AlignmentLosses, MomentsOfManyBatchesAreThoseOfAllRows) {
  // More rows than are summed at once, in two unequal parts, far from zero.
  Array all = filled({307, 3, 2, 5}, Fill::kUniform, 1);
  for (size_t i = 0; i < all.size(); ++i) all.v[i] = 3 * all.v[i] + 2;
  const Tensor rows = all.tensor();
  const std::vector<Tensor> parts{rows.rows(0, 300), rows.rows(300, 7)};
  const FeatureMoments got = feature_moments(parts, Device{});
  const NaiveMoments want = naive_moments(all);
  double variance = 0;
  for (double s : want.stddev.v) variance += s * s / static_cast<double>(want.stddev.size());
  const double scale = std::sqrt(variance);
  EXPECT_NEAR(got.scale, scale, 1e-5 * scale);
  const auto divided = [](const Array& a, double by) {
    return naive::map(a, [by](double v) { return v / by; });
  };
  EXPECT_TRUE(test::near(got.mean, divided(want.mean, scale), 1e-5));
  EXPECT_TRUE(test::near(got.stddev, divided(want.stddev, scale), 1e-5));
  EXPECT_TRUE(test::near(got.covariance, divided(want.covariance, scale * scale), 1e-4));
}

TEST(AlignmentLosses, MomentLossIsTheNaiveLoop) {
  const Array z = filled({9, 4, 3, 2}, Fill::kUniform, 2);
  const NaiveMoments wanted = naive_moments(filled({20, 4, 3, 2}, Fill::kPositive, 3));
  const FeatureMoments given{1, wanted.mean.tensor(), wanted.stddev.tensor(),
                             wanted.covariance.tensor()};
  const Var x(z.tensor(), true);
  const Var loss = moment_loss(x, given);
  EXPECT_NEAR(loss.item(), naive_moment_loss(z, wanted), 1e-4 * loss.item());
  loss.backward();
  EXPECT_TRUE(test::is_gradient([&](const auto& in) { return naive_moment_loss(in[0], wanted); },
                                {z}, 0, Array(x.grad()), {.tolerance = 1e-3}));
  // Nothing to mend where the moments agree.
  const NaiveMoments own = naive_moments(z);
  const FeatureMoments same{1, own.mean.tensor(), own.stddev.tensor(), own.covariance.tensor()};
  EXPECT_LT(moment_loss(Var(z.tensor()), same).item(), 1e-6);
}

TEST(AlignmentLosses, APositionThatNeverVariesHasAFiniteGradient) {
  const Var x(Tensor::full({6, 2, 2, 2}, 0.5f), true);
  const NaiveMoments wanted = naive_moments(filled({8, 2, 2, 2}, Fill::kUniform, 4));
  moment_loss(x, {1, wanted.mean.tensor(), wanted.stddev.tensor(), wanted.covariance.tensor()})
      .backward();
  for (float g : x.grad().to_vector()) EXPECT_TRUE(std::isfinite(g));
}

TEST(AlignmentLosses, KernelDiscrepancyIsTheNaiveLoop) {
  const Array x = filled({7, 2, 2, 3}, Fill::kUniform, 5);
  const Array y = filled({5, 2, 2, 3}, Fill::kPositive, 6);
  const Var v(x.tensor(), true);
  const Var loss = kernel_discrepancy(v, y.tensor());
  EXPECT_NEAR(loss.item(), naive_discrepancy(x, y), 1e-5);
  loss.backward();
  EXPECT_TRUE(test::is_gradient([&](const auto& in) { return naive_discrepancy(in[0], y); }, {x}, 0,
                                Array(v.grad()), {.tolerance = 1e-3}));
  EXPECT_NEAR(kernel_discrepancy(Var(y.tensor()), y.tensor()).item(), 0, 1e-6);
}

// ---- the attack

class Alignment : public testing::Test {
 protected:
  // Networks this small are no work for a team.
  void SetUp() override { set_compute_threads(1); }
};

// Drawn shapes in grey, mostly dark, so that no picture looks like another's negative. The classes
// are eight levels of mean brightness.
Dataset dark_shapes(uint64_t seed) {
  DataOptions options;
  options.name = "shapes";
  options.image_size = 16;
  options.limit = 4096;
  options.seed = seed;
  Dataset data = load_dataset(options, DataSplit::kTrain);
  const int64_t pixels = int64_t{data.height} * data.width;
  Dataset grey = data;
  grey.channels = 1;
  grey.pixels.resize(static_cast<size_t>(data.count() * pixels));
  grey.class_names = {"0", "1", "2", "3", "4", "5", "6", "7"};
  grey.mean = {0.2f};
  grey.stddev = {0.2f};
  for (int64_t i = 0; i < data.count(); ++i) {
    double sum = 0;
    for (int64_t p = 0; p < pixels; ++p) {
      const double v = data.pixels[static_cast<size_t>((i * 3 + 1) * pixels + p)] / 255.0;
      grey.pixels[static_cast<size_t>(i * pixels + p)] = static_cast<uint8_t>(255 * v * v * v);
      sum += v * v * v / static_cast<double>(pixels);
    }
    grey.labels[static_cast<size_t>(i)] = std::min(7, static_cast<int>(sum * 16));
  }
  return grey;
}

// A small classifier of these, trained, cut behind its stem: the client's head and fixed
// noise on one side, the server net on the other.
class Client {
 public:
  Client() {
    spec_.width = 8;
    spec_.channels = 1;
    spec_.image_size = 16;
    const Dataset mine = dark_shapes(1), sent = dark_shapes(3);
    theirs_ = dark_shapes(2);
    spec_.classes = static_cast<int>(mine.class_names.size());
    spec_.mean = mine.mean;
    spec_.stddev = mine.stddev;
    Rng rng(7);
    head_ = build_head(spec_, {}, rng);
    body_ = build_body(spec_, {}, rng);
    auto tail = build_tail(spec_, {}, rng, 1);
    noise_ = Tensor::empty(smashed());
    rng.fill_normal(noise_.span<float>(), 0, 0.1f);
    learn(mine, *tail, rng);
    head_->freeze();
    body_->freeze();
    truth_ = images_of(sent, 0, 64);
    observed_ = send(truth_);
    traffic_ = send(images_of(sent, 64, sent.count() - 64));
  }

  TrafficView view() const {
    TrafficView v;
    v.model = spec_;
    v.bodies = {body_};
    v.observed = observed_;
    v.traffic = traffic_;
    v.public_data = &theirs_;
    return v;
  }

  Tensor send(const Tensor& images) const {
    NoGrad no_grad;
    return add(head_->forward(Var(images)), Var(noise_)).value().plain();
  }

  const Tensor& truth() const { return truth_; }

 private:
  Shape smashed() const {
    const Shape z = smashed_shape(spec_, {});
    return {1, z[0], z[1], z[2]};
  }

  void learn(const Dataset& data, Sequential& tail, Rng& rng) {
    std::vector<NamedVar> all;
    for (const Module* m : {static_cast<Module*>(head_.get()), static_cast<Module*>(body_.get()),
                            static_cast<Module*>(&tail)}) {
      for (const NamedVar& p : m->parameters()) all.push_back(p);
    }
    OptimSpec adam;
    adam.kind = OptimSpec::Kind::kAdam;
    Optimizer optimizer(all, adam);
    LoaderOptions loading;
    loading.batch = 64;
    loading.seed = rng.next();
    Loader loader(data, loading);
    FitOptions fitting;
    fitting.label = "the client";
    fitting.epochs = 3;
    fitting.lr = 3e-3f;
    fit(
        fitting, loader, optimizer,
        [&](const Batch& b) {
          const Var z = add(head_->forward(Var(b.images)), Var(noise_));
          return softmax_cross_entropy(tail.forward(body_->forward(z)), b.labels);
        },
        nullptr, nullptr);
  }

  ModelSpec spec_;
  Dataset theirs_;
  std::shared_ptr<Sequential> head_, body_;
  Tensor noise_, truth_, observed_, traffic_;
};

const Client& client() {
  static const Client c;
  return c;
}

AttackContext small_options() {
  AttackContext o;
  o.seed = 2;
  o.settings.mutable_alignment()->set_steps(800);
  o.settings.mutable_alignment()->set_batch(64);
  o.settings.mutable_decoder()->set_epochs(6);
  o.settings.mutable_decoder()->set_channels(24);
  o.settings.mutable_decoder()->set_blocks(1);
  o.settings.set_batch(32);
  return o;
}

// Beside the upper bound and beside the same attack without its training: how near it comes to the
// one is a matter of its recipe and belongs to the reports on real pictures; that it leaves the
// other far behind is what makes it an attack.
TEST_F(Alignment, ReadsAClientItHasNoPairsOf) {
  TrafficView view = client().view();
  EXPECT_EQ(make_attack("alignment")->level(), KnowledgeLevel::kQueryFree);
  const auto ssim = [&](const std::string& name, const auto& granted, const AttackContext& how) {
    return Evaluator(client().truth())
        .evaluate(*make_attack(name), how.seed, [&] { return run_on(name, granted, how); })
        .scores.ssim.mean;
  };
  AttackContext context = small_options();
  const double aligned = ssim("alignment", view, context);
  context.settings.mutable_alignment()->set_steps(1);
  const double unaligned = ssim("alignment", view, context);
  BlackBoxView queries;
  static_cast<QueryFreeView&>(queries) = view;
  queries.query = [](const Tensor& images) { return client().send(images); };
  queries.query_data = &*view.public_data;
  const double oracle = ssim("oracle", queries, context);
  EXPECT_GT(aligned, 0.5 * oracle) << "oracle " << oracle;
  EXPECT_GT(aligned, unaligned + 0.2) << "without alignment " << unaligned;
  EXPECT_LT(unaligned, 0.4 * oracle) << "oracle " << oracle;
}

// A linear critic's gradient is its weight, wherever it is taken.
TEST(AlignmentLosses, GradientPenaltyMeasuresTheNorm) {
  Rng rng(3);
  Linear critic(12, 1, false, rng);
  const Tensor real = filled({5, 12}, Fill::kUniform, 1).tensor();
  const Tensor fake = filled({5, 12}, Fill::kUniform, 2).tensor();
  const auto naive = [](const std::vector<Array>& in) {
    double square = 0;
    for (const double w : in[0].v) square += w * w;
    return std::pow(std::sqrt(square) - 1, 2);
  };
  const Var weight = critic.parameters()[0].var;
  const Array given(weight.value());
  const Var penalty = gradient_penalty(critic, real, fake, rng);
  EXPECT_NEAR(penalty.item(), naive({given}), 1e-4);
  EXPECT_FALSE(weight.grad().defined());  // what measured the direction left nothing behind
  penalty.backward();
  EXPECT_TRUE(test::is_gradient(naive, {given}, 0, Array(weight.grad()), {.tolerance = 1e-3}));
}

TEST_F(Alignment, ForaReadsAClientItHasNoPairsOf) {
  TrafficView view = client().view();
  AttackContext context = small_options();
  context.settings.mutable_fora()->set_restarts(1);
  context.settings.mutable_fora()->set_steps(800);
  int64_t done = 0;
  context.on_progress = [&](int64_t images, const std::string&) { done += images; };
  const auto ssim = [&] {
    return Evaluator(client().truth())
        .evaluate(*make_attack("fora"), context.seed, [&] { return run_on("fora", view, context); })
        .scores.ssim.mean;
  };
  const double aligned = ssim();
  SplitSetting setting{view.model, view.split};
  setting.public_images = view.public_data->count();
  EXPECT_NEAR(static_cast<double>(done),
              static_cast<double>(make_attack("fora")->cost(setting, context.settings).images()),
              0.05 * static_cast<double>(done));
  context.settings.mutable_fora()->set_steps(1);
  const double unaligned = ssim();
  EXPECT_GT(aligned, unaligned + 0.08) << "without alignment " << unaligned;
}

TEST_F(Alignment, TheShadowTermGoesWithRestartsAndEachHasItsMerit) {
  AttackContext context = small_options();
  context.settings.mutable_alignment()->set_steps(60);
  context.settings.mutable_decoder()->set_epochs(1);
  context.settings.mutable_decoder()->set_channels(16);
  context.settings.mutable_decoder()->set_blocks(1);
  context.settings.mutable_alignment()->set_restarts(2);
  context.settings.set_candidates(2);
  std::mutex mutex;
  int64_t done = 0;
  context.on_progress = [&](int64_t images, const std::string&) {
    std::lock_guard lock(mutex);
    done += images;
  };
  const TrafficView view = client().view();
  const std::vector<Reconstruction> all = run_on("alignment-shadow", view, context);
  ASSERT_EQ(all.size(), 2u);
  for (const Reconstruction& r : all) {
    EXPECT_EQ(r.images.shape(), client().truth().shape());
    EXPECT_TRUE(std::isfinite(r.self_score));
    EXPECT_LT(r.self_score, 0);
  }
  EXPECT_GT(all[0].self_score, all[1].self_score);  // the attacker's choice first
  SplitSetting setting{view.model, view.split};
  setting.public_images = view.public_data->count();
  setting.scored_images = view.observed.dim(0);
  EXPECT_NEAR(static_cast<double>(done),
              static_cast<double>(
                  make_attack("alignment-shadow")->cost(setting, context.settings).images()),
              0.05 * static_cast<double>(done));
}

TEST_F(Alignment, NeitherThreadsNorNeighboursChangeTheResult) {
  AttackContext context = small_options();
  context.settings.mutable_alignment()->set_steps(24);
  context.settings.mutable_decoder()->set_epochs(1);
  context.settings.mutable_decoder()->set_channels(16);
  context.settings.mutable_decoder()->set_blocks(1);
  const TrafficView view = client().view();
  const std::vector<float> alone = run_on("alignment", view, context)[0].images.to_vector();
  context.settings.mutable_alignment()->set_restarts(3);
  context.settings.set_candidates(3);
  for (int repeat = 0; repeat < 2; ++repeat) {
    std::vector<Reconstruction> all;
    // Two at a time, one thread each.
    std::jthread([&] {
      set_compute_threads(2);
      all = run_on("alignment", view, context);
    }).join();
    ASSERT_EQ(all.size(), 3u);
    std::ranges::sort(all, {}, &Reconstruction::candidate);
    EXPECT_EQ(all[0].images.to_vector(), alone);
    EXPECT_NE(all[1].images.to_vector(), alone);
    EXPECT_NE(all[1].images.to_vector(), all[2].images.to_vector());
  }
}

TEST_F(Alignment, WithoutTrafficItSaysWhatIsMissing) {
  for (const char* name : {"alignment", "alignment-shadow", "fora"}) {
    TrafficView view = client().view();
    view.traffic = Tensor();
    ENS_EXPECT_ERROR(run_on(name, view, small_options()), "attack.observed_features");
  }
}

// Maps too small for three strides, and a split behind blocks.
TEST_F(Alignment, CopesWithSmallMaps) {
  TrafficView view = client().view();
  view.split.head = 4;  // maps of 2x2
  Rng rng(11);
  const auto head = build_head(view.model, view.split, rng);
  const auto body = build_body(view.model, view.split, rng);
  head->freeze();
  body->freeze();
  view.bodies = {body};
  const auto send = [&](const Tensor& images) {
    NoGrad no_grad;
    return head->forward(Var(images)).value().plain();
  };
  view.observed = send(client().truth());
  view.traffic = send(images_of(*view.public_data, 0, 200));
  ASSERT_EQ(view.observed.dim(3), 2);
  AttackContext context = small_options();
  context.settings.mutable_alignment()->set_steps(16);
  context.settings.mutable_decoder()->set_epochs(1);
  context.settings.mutable_decoder()->set_channels(16);
  context.settings.mutable_decoder()->set_blocks(1);
  const auto all = run_on("alignment", view, context);
  EXPECT_EQ(all[0].images.shape(), client().truth().shape());
}

}  // namespace
}  // namespace ens
