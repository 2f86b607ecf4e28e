// SPDX-License-Identifier: Apache-2.0
// Attacks through the trained model, and those that train networks of their own.
#include <gtest/gtest.h>

#include "attacks/core/evaluator.h"
#include "attacks/disguise/model.h"
#include "attacks/disguise/registry.h"
#include "tests/attacks/disguise/naive.h"
#include "tests/support/compare.h"

namespace ens::test {
namespace {

// Waves, brighter on the left or on the right by the class.
Dataset sides(int64_t count, uint64_t seed) {
  Dataset data = waves(count, 3, 16, seed);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t p = 0; p < 768; ++p) {
      const bool left = p % 16 < 8;
      uint8_t& v = data.pixels[static_cast<size_t>(i * 768 + p)];
      if (left == (data.labels[static_cast<size_t>(i)] == 0)) {
        v = static_cast<uint8_t>(std::min(255, v + 40));
      }
    }
  }
  return data;
}

class ModelAttacks : public testing::Test {
 protected:
  ModelAttacks() {
    const NaiveRmt key(test_, 4, 'r', false, false, false, 0, 5),
        other(test_, 4, 'r', false, false, false, 0, 6);
    victim_ = victim_of(settings("disguise { method: 'rmt' }"), training_, public_, test_, 20,
                        [key](const Tensor& images) { return key(images, 1); });
    victim_.apply_other_key = [other](const Tensor& images) { return other(images, 1); };
    rows_ = victim_.rows(0, training_.count());
    victim_.model = linear_model(rows_, training_.labels, 2, 60);
  }
  std::vector<Reconstruction> attack(const std::string& name) {
    return make_disguise_attack(name)->run(victim_, small_context());
  }

  const Dataset training_ = sides(400, 1), public_ = sides(400, 2), test_ = sides(40, 3);
  DisguiseVictim victim_;
  Tensor rows_;
};

TEST_F(ModelAttacks, TheModelIsWorthLittleWithoutTheKeyThatMomentsRecover) {
  const Reconstruction r = attack("model-use").back();
  ASSERT_EQ(r.model_use.size(), 3u);
  EXPECT_EQ(r.model_use[2].on, "images under the recovered key");
  EXPECT_GT(r.model_use[2].accuracy, 0.95);
  EXPECT_LT(r.model_use[0].accuracy, r.model_use[2].accuracy - 0.1) << r.model_use[0].on;
  EXPECT_LT(r.model_use[1].accuracy, r.model_use[2].accuracy - 0.1) << r.model_use[1].on;
}

// What the model takes for a class is bright where the class is.
TEST_F(ModelAttacks, AClassIsReadOutOfTheModel) {
  const Reconstruction r = attack("model-use").back();
  for (int64_t i = 0; i < 20; ++i) {
    double left = 0, right = 0;
    for (int64_t p = 0; p < 768; ++p) {
      (p % 16 < 8 ? left : right) += r.images.data<float>()[i * 768 + p];
    }
    EXPECT_EQ(left > right, test_.labels[static_cast<size_t>(i)] == 0) << i;
  }
}

TEST_F(ModelAttacks, RenamedClassesAreNamedByWhatFitsBest) {
  const Tensor logits = Tensor::from({0, 1, 0, 1, 1, 0, 1, 0}, {4, 2});
  const Tensor labels = Tensor::from_labels(std::vector<int32_t>{0, 0, 1, 1});
  EXPECT_EQ(accuracy_of(logits, labels, false), 0);
  EXPECT_EQ(accuracy_of(logits, labels, true), 1);
}

// A model that has learned noise by heart tells who was in its training; one that has not does not.
TEST_F(ModelAttacks, TheLossTellsMembers) {
  Rng rng(7);
  constexpr int64_t kEach = 100;
  Tensor rows = Tensor::empty({2 * kEach, 3, 16, 16});
  rng.fill_normal(rows.span<float>(), 100, 50);
  std::vector<int32_t> labels, members;
  for (int64_t i = 0; i < 2 * kEach; ++i) {
    labels.push_back(static_cast<int32_t>(rng.below(2)));
    members.push_back(i < kEach);
  }
  victim_.candidates = rows;
  victim_.candidate_labels = labels;
  Evaluator evaluator(images_of(test_, 0, 20));
  evaluator.set_members(members);
  const auto auc = [&](int steps) {
    const std::vector<int32_t> own(labels.begin(), labels.begin() + kEach);
    victim_.model = linear_model(rows.rows(0, kEach), own, 2, steps);
    const auto membership = make_disguise_attack("membership");
    const AttackScore score = evaluator.evaluate(
        *membership, 1, [&] { return membership->run(victim_, AttackContext()); });
    return score.auc.value();
  };
  EXPECT_GT(auc(60).mean, 0.95);
  EXPECT_LT(auc(0).low, 0.5);
}

// Where the disguise is none the substitute is the identity, and the decoder reads the queries.
TEST_F(ModelAttacks, AlignmentReadsPlainImages) {
  victim_ = victim_of(settings("disguise { method: 'identity' }"), training_, public_, test_, 20,
                      [](const Tensor& images) {
                        Tensor rows = images.clone();
                        for (float& v : rows.span<float>()) v *= 255;
                        return rows;
                      });
  Evaluator evaluator(images_of(test_, 0, 20));
  evaluator.set_gallery(images_of(test_, 0, 40));
  const auto align = make_disguise_attack("align");
  AttackContext context = small_context();
  context.settings.mutable_decoder()->set_epochs(20);
  const AttackScore score =
      evaluator.evaluate(*align, 1, [&] { return align->run(victim_, context); });
  EXPECT_GT(score.matching->rank1.mean, 0.75);  // chance: .025
}

// What no linear attack reads well: a network does.
TEST_F(ModelAttacks, TheOracleTrainsADecoder) {
  victim_ = victim_of(settings("disguise { method: 'identity' }"), training_, public_, test_, 20,
                      [](const Tensor& images) {
                        Tensor rows = images.clone();
                        for (float& v : rows.span<float>()) v = 255 * std::pow(v, 4.0f);
                        return rows;
                      });
  AttackContext context = small_context();
  context.settings.mutable_decoder()->set_epochs(30);
  const Reconstruction r = make_disguise_attack("oracle")->run(victim_, context).back();
  EXPECT_TRUE(r.candidate == "a decoder, pairs without limit" || r.candidate.starts_with("decode,"))
      << r.candidate;
}

}  // namespace
}  // namespace ens::test
