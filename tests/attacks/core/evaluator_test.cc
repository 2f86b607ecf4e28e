// SPDX-License-Identifier: Apache-2.0
// What the evaluator reports when an attack returns one, several, or a curve of reconstructions.
#include "attacks/core/evaluator.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

// Known by its name alone: what it reconstructs is given to the evaluator.
class Named : public Attack {
 public:
  std::string name() const override { return "given"; }
  std::string title() const override { return "a given result"; }
  KnowledgeLevel level() const override { return KnowledgeLevel::kQueryFree; }
};

class EvaluatorTest : public testing::Test {
 protected:
  EvaluatorTest() {
    truth_ = Tensor::empty({6, 3, 16, 16});
    Rng rng(1);
    rng.fill_uniform(truth_.span<float>(), 0, 1);
  }

  // The truth mixed with noise: the more, the worse.
  Reconstruction worsened(const std::string& part, float noise) {
    Reconstruction r;
    r.candidate = part;
    r.images = truth_.clone();
    Rng rng(2);
    Tensor other = Tensor::empty(truth_.shape());
    rng.fill_uniform(other.span<float>(), 0, 1);
    for (int64_t i = 0; i < truth_.numel(); ++i) {
      float& x = r.images.data<float>()[i];
      x = (1 - noise) * x + noise * other.data<float>()[i];
    }
    return r;
  }

  AttackScore evaluate(std::vector<Reconstruction> all) {
    return Evaluator(truth_).evaluate(Named(), 1, [&] { return all; });
  }

  Tensor truth_;
};

TEST_F(EvaluatorTest, OfSeveralTheBestIsReportedAsChosenWithTheTruth) {
  const AttackScore s =
      evaluate({worsened("far", 0.8f), worsened("near", 0.2f), worsened("middle", 0.5f)});
  EXPECT_EQ(s.best_candidate, "near");
  EXPECT_EQ(s.best_of, 3);
  EXPECT_EQ(s.attacker_choice, -1);  // it said nothing of what it would choose itself
  ASSERT_EQ(s.candidates.size(), 3u);
  EXPECT_DOUBLE_EQ(s.scores.ssim.mean, s.candidates[1].ssim);
  EXPECT_GT(s.candidates[1].ssim, s.candidates[2].ssim);
  EXPECT_GT(s.candidates[2].ssim, s.candidates[0].ssim);
  EXPECT_DOUBLE_EQ(s.best_psnr, s.candidates[1].psnr);
}

TEST_F(EvaluatorTest, TheAttackersOwnChoiceNeedsNoTruth) {
  Reconstruction near = worsened("near", 0.2f), far = worsened("far", 0.8f);
  near.self_score = -2;
  far.self_score = -1;  // its criterion misleads it
  const AttackScore s = evaluate({near, far});
  EXPECT_EQ(s.best_candidate, "near");
  ASSERT_EQ(s.attacker_choice, 1);
  EXPECT_EQ(s.candidates[1].name, "far");
}

TEST_F(EvaluatorTest, ACurveIsReportedAtItsEndAndNothingIsChosen) {
  Reconstruction few = worsened("m = 1", 0.2f), many = worsened("m = 10", 0.6f);
  few.x = 1;
  many.x = 10;
  const AttackScore s = evaluate({few, many});
  EXPECT_EQ(s.best_candidate, "m = 10");
  EXPECT_EQ(s.best_of, 1);
  EXPECT_DOUBLE_EQ(s.scores.ssim.mean, s.candidates[1].ssim);
  EXPECT_DOUBLE_EQ(s.best_psnr, s.candidates[1].psnr);
}

TEST_F(EvaluatorTest, ANegativeIsRecognised) {
  Reconstruction r = worsened("negative", 0.1f);
  r.images = with_polarity(r.images, Polarity::kNegative);
  const AttackScore s = evaluate({r});
  EXPECT_LT(s.scores.ssim.mean, 0);
  EXPECT_EQ(s.negative.polarity, Polarity::kNegative);
  EXPECT_GT(s.negative.ssim.mean, 0.8);
}

TEST_F(EvaluatorTest, RefusesWhatDoesNotFit) {
  Reconstruction wrong;
  wrong.candidate = "small";
  wrong.images = Tensor::zeros({6, 3, 12, 12});
  EXPECT_THROW(evaluate({wrong}), Error);
  EXPECT_THROW(evaluate({}), Error);
  Reconstruction broken = worsened("broken", 0.1f);
  broken.images.data<float>()[5] = std::nanf("");
  EXPECT_THROW(evaluate({broken}), Error);
  Reconstruction fewer = worsened("near", 0.2f);
  fewer.images = fewer.images.rows(0, 5);
  EXPECT_THROW(evaluate({fewer}), Error);
}

}  // namespace
}  // namespace ens
