// SPDX-License-Identifier: Apache-2.0
// The reference classifier: sees classes and single pictures, and neither in noise.
#include "attacks/core/reference_classifier.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "attacks/core/evaluator.h"
#include "base/error.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

double mean(const std::vector<double>& v) {
  return std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size());
}

class ReferenceTest : public testing::Test {
 protected:
  static constexpr int64_t kScored = 60;

  static void SetUpTestSuite() {
    DataOptions options;
    options.name = "shapes";
    options.limit = 4000;
    const Dataset train = load_dataset(options, DataSplit::kTrain);
    options.limit = kScored;
    const Dataset test = load_dataset(options, DataSplit::kTest);
    truth_ = images_of(test, 0, kScored);
    labels_ = test.labels;
    classes_ = static_cast<double>(test.class_names.size());
    int64_t seen = 0;
    reference_ = std::make_shared<ReferenceClassifier>(train, 24000, Device{}, Dtype::kF32, 1,
                                                       [&](int64_t n) { seen += n; });
    EXPECT_GT(seen, 20000);
    EXPECT_LE(seen, 24000);
  }
  static void TearDownTestSuite() { reference_.reset(); }

  static Tensor noise() {
    Tensor t = Tensor::empty(truth_.shape());
    Rng rng(3);
    rng.fill_uniform(t.span<float>(), 0, 1);
    return t;
  }

  static inline std::shared_ptr<const ReferenceClassifier> reference_;
  static inline Tensor truth_;
  static inline std::vector<int32_t> labels_;
  static inline double classes_ = 0;
};

TEST_F(ReferenceTest, RecognisesOriginalsAndNotNoise) {
  const double originals = mean(reference_->recognition_of(truth_, labels_));
  EXPECT_GT(originals, 0.5);
  EXPECT_LT(mean(reference_->recognition_of(noise(), labels_)), 2.5 / classes_);
  std::vector<int32_t> wrong = labels_;
  for (int32_t& label : wrong) label = (label + 1) % static_cast<int32_t>(classes_);
  EXPECT_LT(mean(reference_->recognition_of(truth_, wrong)), 1 - originals + 1e-9);
}

TEST_F(ReferenceTest, FindsTheOriginalOfASlightlyWorsePicture) {
  Tensor worse = truth_.clone();
  const Tensor other = noise();
  for (int64_t i = 0; i < worse.numel(); ++i) {
    float& x = worse.data<float>()[i];
    x = 0.98f * x + 0.02f * other.data<float>()[i];
  }
  EXPECT_GT(mean(reference_->reidentification_of(truth_, worse)), 0.7);
  EXPECT_LT(mean(reference_->reidentification_of(truth_, noise())), 0.15);

  // Each reconstruction the perfect picture of somebody else: nobody's own is the nearest.
  Tensor turned = Tensor::empty(truth_.shape());
  for (int64_t i = 0; i < kScored; ++i) {
    turned.rows(i, 1).copy_from(truth_.rows((i + 1) % kScored, 1));
  }
  EXPECT_LT(mean(reference_->reidentification_of(truth_, turned)), 0.05);
}

TEST_F(ReferenceTest, RefusesWhatDoesNotFit) {
  EXPECT_THROW(reference_->recognition_of(truth_, {labels_.data(), 5}), Error);
  EXPECT_THROW(reference_->reidentification_of(truth_, truth_.rows(0, 5)), Error);
}

class Named : public Attack {
 public:
  std::string name() const override { return "given"; }
  std::string title() const override { return "given"; }
  KnowledgeLevel level() const override { return KnowledgeLevel::kQueryFree; }
};

TEST_F(ReferenceTest, TheEvaluatorConsultsIt) {
  Evaluator evaluator(truth_);
  const auto run = [&] {
    Reconstruction perfect;
    perfect.images = truth_;
    return std::vector<Reconstruction>{perfect};
  };
  EXPECT_FALSE(evaluator.evaluate(Named(), 1, run).reference);
  evaluator.set_reference_classifier(reference_, labels_);
  const AttackScore s = evaluator.evaluate(Named(), 1, run);
  ASSERT_TRUE(s.reference);
  EXPECT_DOUBLE_EQ(s.reference->recognition_rate.mean, s.reference->originals);
  EXPECT_GT(s.reference->reidentification_rate.mean,
            0.9);  // equal embeddings of two originals are a tie
  EXPECT_LE(s.reference->recognition_rate.low, s.reference->originals);
}

}  // namespace
}  // namespace ens
