// SPDX-License-Identifier: Apache-2.0
// Who may know what. For every attack the exact list of what its view holds, and that the images
// which are scored are nobody else's. A wider view, a grant too many, or scored images in the
// traffic or in the public set fail here.
#include "attacks/split/grant.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "attacks/split/registry.h"
#include "nn/data/loader.h"
#include "proto/attacks.h"

namespace ens {
namespace {

using Names = std::set<std::string>;

// Images of one pixel; the number of each is its colour.
Dataset numbered(int64_t count, int first) {
  Dataset data;
  data.channels = data.height = data.width = 1;
  for (int64_t i = 0; i < count; ++i) {
    data.pixels.push_back(static_cast<uint8_t>(first + i));
    data.labels.push_back(static_cast<int32_t>(i % 3));
  }
  return data;
}

std::set<int> numbers(const Dataset& data) { return {data.pixels.begin(), data.pixels.end()}; }

bool disjoint(const std::set<int>& a, const std::set<int>& b) {
  return std::ranges::none_of(a, [&](int i) { return b.contains(i); });
}

// A victim of which everything could be known. It sends an image's own pixels, so that whose images
// a feature comes from can be read from it.
class GrantTest : public testing::Test {
 protected:
  GrantTest() {
    context_.settings.set_public_images(20);
    context_.settings.set_scored_images(8);
    context_.settings.set_observed_features(15);
    roles_ = divide_images(train_, test_, context_.settings, 1);
    victim_.bodies = {std::make_shared<Sequential>(), std::make_shared<Sequential>()};
    victim_.public_data = &roles_.public_data;
    victim_.send = [](const Tensor& images) { return images.clone(); };
    victim_.observed = images_of(roles_.scored, 0, roles_.scored.count());
    victim_.traffic = [this] { return images_of(roles_.traffic, 0, roles_.traffic.count()); };
    victim_.subset = {1};
    victim_.labels = roles_.scored.labels;
    victim_.nearest = [this] { return nearest_images(roles_.scored, roles_.public_data); };
    victim_.training_data = [this] { return &train_; };
    victim_.head = std::make_shared<Sequential>();
    victim_.protect = [](const Var& features) { return features; };
    victim_.channel = [](const Var& features, Rng*) { return features; };
    victim_.send_mean = victim_.send;
    victim_.resend = [this](const auto& change) { return change(victim_.observed); };
  }

  // What the attack's view holds, by member; empty if the attack is not on this type of view.
  template <typename View>
  Names held(const SplitAttack& attack) const {
    if (!dynamic_cast<const AttackOn<View>*>(&attack)) return {};
    View view;
    grant(victim_, context_, view);
    Names names;
    const auto add = [&](const char* name, bool is_set) {
      if (is_set) names.insert(name);
    };
    add("bodies", !view.bodies.empty());
    add("public_data", view.public_data != nullptr);
    add("channel", static_cast<bool>(view.channel));
    if constexpr (requires { view.labels; }) add("labels", !view.labels.empty());
    if constexpr (requires { view.nearest; }) add("nearest", !view.nearest.empty());
    if constexpr (requires { view.query_data; }) add("query_data", view.query_data != nullptr);
    if constexpr (requires { view.observed; }) add("observed", view.observed.defined());
    if constexpr (requires { view.traffic; }) add("traffic", view.traffic.defined());
    if constexpr (requires { view.subset; }) add("subset", !view.subset.empty());
    if constexpr (requires { view.pair_images; }) {
      add("pairs", view.pair_images.defined() && view.pair_features.defined());
    }
    if constexpr (requires { view.query; }) add("query", static_cast<bool>(view.query));
    if constexpr (requires { view.mean_query; }) {
      add("mean_query", static_cast<bool>(view.mean_query));
    }
    if constexpr (requires { view.head; }) add("head", view.head != nullptr);
    if constexpr (requires { view.protect; }) add("protect", static_cast<bool>(view.protect));
    if constexpr (requires { view.resend; }) add("resend", static_cast<bool>(view.resend));
    return names;
  }

  Names held_by(const SplitAttack& attack) const {
    Names all;
    for (const Names& names :
         {held<ServerView>(attack), held<LabelView>(attack), held<NearestView>(attack),
          held<QueryFreeView>(attack), held<TrafficView>(attack), held<SubsetView>(attack),
          held<KnownPairsView>(attack), held<BlackBoxView>(attack), held<RepetitionView>(attack),
          held<WhiteBoxView>(attack)}) {
      EXPECT_TRUE(all.empty() || names.empty()) << attack.name() << " is on two types of view";
      all.insert(names.begin(), names.end());
    }
    return all;
  }

  const Dataset train_ = numbered(60, 0), test_ = numbered(40, 100);
  AttackContext context_;
  ImageRoles roles_;
  SplitVictim victim_;
};

TEST_F(GrantTest, EveryAttackHoldsExactlyThis) {
  const Names server = {"bodies", "public_data", "channel"};
  const auto and_also = [&](Names more) {
    more.insert(server.begin(), server.end());
    return more;
  };
  const Names query_free = and_also({"observed"});
  const Names black_box = and_also({"observed", "query", "query_data", "mean_query"});
  const std::map<std::string, Names> expected = {
      {"mean-image", server},
      {"class-mean", and_also({"labels"})},
      {"nearest-public", and_also({"nearest"})},
      {"shadow-n1", query_free},
      {"shadow-adaptive", query_free},
      {"shadow-enumerate", query_free},
      {"rmle-shadow", query_free},
      {"shadow-subset", and_also({"observed", "subset"})},
      {"alignment", and_also({"observed", "traffic"})},
      {"fora", and_also({"observed", "traffic"})},
      {"alignment-shadow", and_also({"observed", "traffic"})},
      {"known-pairs", and_also({"observed", "pairs"})},
      {"coalition", query_free},
      {"oracle", black_box},
      {"linear-decoder", black_box},
      {"retrieval", black_box},
      {"repetition", and_also({"observed", "query", "query_data", "mean_query", "resend"})},
      {"rmle-white", and_also({"observed", "head", "protect"})},
      {"map-prior", and_also({"observed", "head", "protect"})},
  };
  for (const std::string& name : attack_names()) {
    ASSERT_TRUE(expected.contains(name)) << "say here what '" << name << "' may know";
    EXPECT_EQ(held_by(*make_attack(name)), expected.at(name)) << name;
  }
  EXPECT_EQ(attack_names().size(), expected.size());
}

// The level in tables is the level of the view.
// Reports, which know the list alone, find every attack at its place.
TEST(AttackRegistry, NamesAreThoseOfTheList) {
  const std::vector<std::string> names = attack_names();
  for (size_t i = 0; i + 1 < names.size(); ++i) EXPECT_EQ(attack_rank(names[i]), i) << names[i];
  EXPECT_EQ(attack_rank(names.back()), names.size()) << names.back();
}

TEST_F(GrantTest, LevelsFollowTheViews) {
  const std::map<std::string, KnowledgeLevel> expected = {
      {"alignment", KnowledgeLevel::kQueryFree},    {"shadow-subset", KnowledgeLevel::kQueryFree},
      {"known-pairs", KnowledgeLevel::kKnownPairs}, {"oracle", KnowledgeLevel::kBlackBox},
      {"rmle-white", KnowledgeLevel::kWhiteBox},    {"repetition", KnowledgeLevel::kRepeatedSends},
  };
  for (const auto& [name, level] : expected) EXPECT_EQ(make_attack(name)->level(), level) << name;
}

// The numbers 0..59 are the public images' colours: the floor is their mean, and nothing else.
TEST_F(GrantTest, TheMeanImageIsTheMeanOfThePublicImages) {
  victim_.model.channels = victim_.model.image_size = 1;
  const auto all = make_attack("mean-image")->run(victim_, context_);
  double mean = 0;
  for (const int number : numbers(roles_.public_data)) mean += number / (20 * 255.0);
  ASSERT_EQ(all.at(0).images.shape(), (Shape{8, 1, 1, 1}));
  for (const float pixel : all[0].images.to_vector()) EXPECT_NEAR(pixel, mean, 1e-6);
}

// The colours of the public images of a label, and no others.
TEST_F(GrantTest, TheClassMeanIsTheMeanOfTheClass) {
  victim_.model.channels = victim_.model.image_size = 1;
  victim_.model.classes = 3;
  const auto images = make_attack("class-mean")->run(victim_, context_).at(0).images.to_vector();
  const Dataset& data = roles_.public_data;
  ASSERT_EQ(images.size(), victim_.labels.size());
  for (size_t i = 0; i < images.size(); ++i) {
    double sum = 0, count = 0;
    for (size_t j = 0; j < data.labels.size(); ++j) {
      if (data.labels[j] == victim_.labels[i]) sum += data.pixels[j] / 255.0, ++count;
    }
    EXPECT_NEAR(images[i], sum / count, 1e-6);
  }
  // A class that the public images lack: their mean.
  victim_.labels.assign(victim_.labels.size(), 2);
  roles_.public_data.labels.assign(data.labels.size(), 0);
  const auto mean = make_attack("mean-image")->run(victim_, context_).at(0).images.to_vector();
  EXPECT_EQ(make_attack("class-mean")->run(victim_, context_).at(0).images.to_vector(), mean);
}

// All test images are brighter than all public ones: the brightest of those is the nearest.
TEST_F(GrantTest, TheNearestPublicImageIsTheNearest) {
  victim_.model.channels = victim_.model.image_size = 1;
  const auto images =
      make_attack("nearest-public")->run(victim_, context_).at(0).images.to_vector();
  const float brightest = static_cast<float>(*numbers(roles_.public_data).rbegin()) / 255;
  ASSERT_EQ(images.size(), 8u);
  for (const float pixel : images) EXPECT_FLOAT_EQ(pixel, brightest);
  EXPECT_EQ(nearest_images(train_.pick({7, 3}), train_), (std::vector<int64_t>{7, 3}));
}

// Tier `full` asks for the features of all training images; `quick` has the public ones.
TEST_F(GrantTest, OnlyTheFullTierHasAllTrainingImages) {
  BlackBoxView quick, full;
  grant(victim_, context_, quick);
  context_.settings.set_tier("full");
  grant(victim_, context_, full);
  EXPECT_EQ(quick.query_data, &roles_.public_data);
  EXPECT_EQ(full.query_data, &train_);
}

// Who sees an image sent again must learn on what the device sends again, which may be the same.
TEST_F(GrantTest, RepeatedSendsAreTheDevices) {
  victim_.send_from_device = [](const Tensor& images) { return Tensor::full(images.shape(), 7); };
  RepetitionView repeated;
  BlackBoxView other;
  grant(victim_, context_, repeated);
  grant(victim_, context_, other);
  const Tensor one = Tensor::zeros({1, 1, 1, 1});
  EXPECT_EQ(repeated.query(one).item(), 7);
  EXPECT_EQ(other.query(one).item(), 0);
}

TEST_F(GrantTest, ScoredImagesAreNobodyElses) {
  const std::set<int> scored = numbers(roles_.scored);
  EXPECT_EQ(scored.size(), 8u);
  EXPECT_EQ(roles_.traffic.count(), 15);
  EXPECT_EQ(roles_.public_data.count(), 20);
  EXPECT_TRUE(disjoint(scored, numbers(roles_.traffic)));
  EXPECT_TRUE(disjoint(scored, numbers(roles_.public_data)));
  EXPECT_TRUE(disjoint(numbers(roles_.traffic), numbers(roles_.public_data)));

  // And in what reaches an attacker: the features are the pixels.
  const auto sent = [](const Tensor& features) {
    std::set<int> found;
    for (const float v : features.to_vector()) found.insert(static_cast<int>(255 * v + 0.5f));
    return found;
  };
  TrafficView traffic;
  grant(victim_, context_, traffic);
  EXPECT_EQ(sent(traffic.observed), scored);
  EXPECT_TRUE(disjoint(sent(traffic.traffic), scored));
  KnownPairsView pairs;
  grant(victim_, context_, pairs);
  EXPECT_EQ(pairs.pair_images.dim(0), 20);  // all there are: the setting asks for more
  EXPECT_TRUE(disjoint(sent(pairs.pair_features), scored));
}

TEST_F(GrantTest, OneOfEachClassLeavesTheOthersToTheTraffic) {
  context_.settings.set_one_per_class(true);
  context_.settings.set_observed_features(1000);
  const ImageRoles roles = divide_images(train_, test_, context_.settings, 1);
  EXPECT_EQ(numbers(roles.scored), (std::set<int>{100, 101, 102}));
  EXPECT_EQ(roles.traffic.count(), 37);
  EXPECT_TRUE(disjoint(numbers(roles.scored), numbers(roles.traffic)));
}

}  // namespace
}  // namespace ens
