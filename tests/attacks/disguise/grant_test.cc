// SPDX-License-Identifier: Apache-2.0
// Who may know what of a disguised training. For every attack the exact list of what its view
// holds; a wider view or a grant too many fails here.
#include "attacks/disguise/grant.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "attacks/disguise/registry.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

using Names = std::set<std::string>;

// Images of one pixel, the number of each is its colour; the "disguise" adds a half.
Dataset numbered(int64_t count) {
  Dataset data;
  data.channels = data.height = data.width = 1;
  for (int64_t i = 0; i < count; ++i) {
    data.pixels.push_back(static_cast<uint8_t>(i));
    data.labels.push_back(0);
  }
  return data;
}

class DisguiseGrantTest : public testing::Test {
 protected:
  DisguiseGrantTest() {
    victim_.disguise.set_method("rmt");
    victim_.image = {1, 1, 1};
    victim_.training_rows = 5;
    victim_.rows = [](int64_t, int64_t count) { return Tensor::zeros({count, 1, 1, 1}); };
    victim_.queries = Tensor::zeros({3, 1, 1, 1});
    victim_.public_data = &public_;
    victim_.private_images = [] {
      Tensor images = Tensor::empty({50, 1, 1, 1});
      for (int64_t i = 0; i < 50; ++i) images.data<float>()[i] = static_cast<float>(i);
      return images;
    };
    victim_.private_rows = victim_.private_images;
    victim_.apply = [this](const Tensor& images) {
      disguised_ += images.dim(0);
      return images.clone();
    };
    victim_.apply_other_key = [](const Tensor& images) { return images.clone(); };
    victim_.model = std::make_shared<Sequential>();
    victim_.candidates = Tensor::zeros({2, 1, 1, 1});
    victim_.candidate_labels = {0, 0};
  }

  template <typename View>
  Names held(const DisguiseAttack& attack) {
    if (!dynamic_cast<const AttackOn<View>*>(&attack)) return {};
    View view;
    grant(victim_, context_, view);
    Names names;
    const auto add = [&](const char* name, bool is_set) {
      if (is_set) names.insert(name);
    };
    add("settings", view.disguise.method() == "rmt");
    if constexpr (requires { view.rows; }) add("rows", view.rows && view.training_rows == 5);
    if constexpr (requires { view.queries; }) add("queries", view.queries.defined());
    if constexpr (requires { view.public_data; }) add("public_data", view.public_data != nullptr);
    if constexpr (requires { view.private_rows; }) {
      add("private images", view.private_images.defined() && view.private_rows.defined());
    }
    if constexpr (requires { view.pair_rows; }) add("pairs", view.pair_rows.defined());
    if constexpr (requires { view.apply; }) add("apply", static_cast<bool>(view.apply));
    if constexpr (requires { view.model; }) add("model", view.model != nullptr);
    if constexpr (requires { view.apply_other_key; }) {
      add("another key", static_cast<bool>(view.apply_other_key));
    }
    if constexpr (requires { view.candidates; }) {
      add("candidates", view.candidates.defined() && view.labels.size() == 2);
    }
    return names;
  }

  Names held_by(const std::string& name) {
    const auto attack = make_disguise_attack(name);
    Names all;
    all.merge(held<DisguisedView>(*attack));
    all.merge(held<PublicView>(*attack));
    all.merge(held<PrivateImagesView>(*attack));
    all.merge(held<ModelView>(*attack));
    all.merge(held<MembershipView>(*attack));
    all.merge(held<DisguisedPairsView>(*attack));
    all.merge(held<AnyPairsView>(*attack));
    return all;
  }

  Dataset public_ = numbered(20);
  DisguiseVictim victim_;
  AttackContext context_;
  int64_t disguised_ = 0;  // images that the owner was made to disguise
};

TEST_F(DisguiseGrantTest, EveryAttackStopsAtItsLevel) {
  const Names l0 = {"settings", "rows", "queries"};
  const Names membership = {"settings", "model", "candidates"};
  Names l1 = l0, l1x, l2, oracle, model;
  l1.insert("public_data");
  l1x = l2 = oracle = model = l1;
  l1x.insert("private images");
  l2.insert("pairs");
  oracle.insert("apply");
  model.insert({"model", "another key"});
  const std::map<std::string, std::pair<const char*, Names>> expected = {
      {"look", {"L0", l0}},
      {"thumbnail", {"L0", l0}},
      {"equality", {"L0", l0}},
      {"membership", {"L0", membership}},
      {"moments", {"L1", l1}},
      {"denoise", {"L1", l1}},
      {"align", {"L1", l1}},
      {"model-use", {"L1", model}},
      {"match", {"L1x", l1x}},
      {"regression", {"L2", l2}},
      {"procrustes", {"L2", l2}},
      {"codebook", {"L2", l2}},
      {"decode", {"L2", l2}},
      {"oracle", {"oracle", oracle}}};
  ASSERT_EQ(disguise_attack_names().size(), expected.size());
  for (const std::string& attack : disguise_attack_names()) {
    ASSERT_TRUE(expected.contains(attack)) << attack << ": what may it know?";
    EXPECT_EQ(name(make_disguise_attack(attack)->level()), std::string(expected.at(attack).first));
    EXPECT_EQ(held_by(attack), expected.at(attack).second) << attack;
  }
}

// Who is who is the question: the order of the images must not say it.
TEST_F(DisguiseGrantTest, PrivateImagesComeInAnOrderThatSaysNothing) {
  PrivateImagesView view;
  grant(victim_, context_, view);
  std::vector<float> images = view.private_images.to_vector();
  const std::vector<float> rows = view.private_rows.to_vector();
  EXPECT_EQ(rows, victim_.private_rows().to_vector());
  int same = 0;
  for (size_t i = 0; i < images.size(); ++i) same += images[i] == rows[i];
  EXPECT_LT(same, 8);
  std::ranges::sort(images);
  EXPECT_EQ(images, rows);
  EXPECT_EQ(disguised_, 0);
}

TEST_F(DisguiseGrantTest, NoMorePairsThanTheLevelHas) {
  context_.settings.mutable_known_pairs()->add_counts(7);
  context_.settings.mutable_known_pairs()->add_counts(2);
  DisguisedPairsView view;
  grant(victim_, context_, view);
  EXPECT_EQ(view.pair_images.dim(0), 7);
  EXPECT_EQ(disguised_, 7);
  EXPECT_EQ(view.pair_images.to_vector(), images_of(public_, 0, 7).to_vector());
}

TEST_F(DisguiseGrantTest, MorePairsThanImagesAreAllOfThem) {
  EXPECT_EQ(disguised_pair_counts(context_.settings, 20),
            (std::vector<int64_t>{1, 2, 3, 5, 10, 20}));
  EXPECT_TRUE(disguised_pair_counts(context_.settings, 0).empty());
}

}  // namespace
}  // namespace ens
