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
    reference_ = std::make_shared<Reference>(train, 24000, Device{}, Dtype::kF32, 1,
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

  static inline std::shared_ptr<const Reference> reference_;
  static inline Tensor truth_;
  static inline std::vector<int32_t> labels_;
  static inline double classes_ = 0;
};

TEST_F(ReferenceTest, RecognisesOriginalsAndNotNoise) {
  const double originals = mean(reference_->recognised(truth_, labels_));
  EXPECT_GT(originals, 0.5);
  EXPECT_LT(mean(reference_->recognised(noise(), labels_)), 2.5 / classes_);
  std::vector<int32_t> wrong = labels_;
  for (int32_t& label : wrong) label = (label + 1) % static_cast<int32_t>(classes_);
  EXPECT_LT(mean(reference_->recognised(truth_, wrong)), 1 - originals + 1e-9);
}

TEST_F(ReferenceTest, FindsTheOriginalOfASlightlyWorsePicture) {
  Tensor worse = truth_.clone();
  const Tensor other = noise();
  for (int64_t i = 0; i < worse.numel(); ++i) {
    float& x = worse.data<float>()[i];
    x = 0.98f * x + 0.02f * other.data<float>()[i];
  }
  EXPECT_GT(mean(reference_->reidentified(truth_, worse)), 0.7);
  EXPECT_LT(mean(reference_->reidentified(truth_, noise())), 0.15);

  // Each reconstruction the perfect picture of somebody else: nobody's own is the nearest.
  Tensor turned = Tensor::empty(truth_.shape());
  for (int64_t i = 0; i < kScored; ++i) {
    turned.rows(i, 1).copy_from(truth_.rows((i + 1) % kScored, 1));
  }
  EXPECT_LT(mean(reference_->reidentified(truth_, turned)), 0.05);
}

TEST_F(ReferenceTest, RefusesWhatDoesNotFit) {
  EXPECT_THROW(reference_->recognised(truth_, {labels_.data(), 5}), Error);
  EXPECT_THROW(reference_->reidentified(truth_, truth_.rows(0, 5)), Error);
}

// Returns the images it is given.
class Given : public Attack {
 public:
  explicit Given(Tensor images) { r_.images = std::move(images); }
  std::string name() const override { return "given"; }
  std::string title() const override { return "given"; }
  KnowledgeLevel level() const override { return KnowledgeLevel::kQueryFree; }
  int64_t work(const AdversaryView&, const AttackOptions&) const override { return 0; }
  std::vector<Reconstruction> run(const AdversaryView&, const AttackOptions&) override {
    return {r_};
  }

 private:
  Reconstruction r_;
};

TEST_F(ReferenceTest, TheEvaluatorConsultsIt) {
  Evaluator evaluator(truth_);
  AdversaryView view;
  view.observed = Tensor::zeros({kScored, 1, 2, 2});
  Given attack(truth_);
  EXPECT_FALSE(evaluator.evaluate(attack, view, {}).reference);
  evaluator.consult(reference_, labels_);
  const AttackScore s = evaluator.evaluate(attack, view, {});
  ASSERT_TRUE(s.reference);
  EXPECT_DOUBLE_EQ(s.reference->recognised.mean, s.reference->originals);
  EXPECT_GT(s.reference->reidentified.mean, 0.9);  // equal embeddings of two originals are a tie
  EXPECT_LE(s.reference->recognised.low, s.reference->originals);
}

}  // namespace
}  // namespace ens
