// SPDX-License-Identifier: Apache-2.0
// SSIM, PSNR and MSE against stored scikit-image values (make_metrics_reference.py), intervals and
// polarities.
#include "attacks/core/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

constexpr char kFolder[] = ENS_SOURCE_DIR "/tests/attacks/core/";

Tensor random_images(const Shape& shape, uint64_t seed) {
  Tensor t = Tensor::empty(shape);
  Rng(seed).fill_uniform(t.span<float>(), 0.0f, 1.0f);
  return t;
}

class Reference : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ifstream json(std::string(kFolder) + "metrics_reference.json");
    ASSERT_TRUE(json) << "the reference file is missing";
    cases_ = nlohmann::json::parse(json);
    std::ifstream bin(std::string(kFolder) + "metrics_reference.bin", std::ios::binary);
    pixels_.assign(std::istreambuf_iterator<char>(bin), {});
    ASSERT_GE(cases_.size(), 12u);
  }

  Tensor next(const Shape& shape) {
    Tensor t = Tensor::empty(shape);
    for (float& value : t.span<float>()) {
      uint16_t stored = 0;
      std::memcpy(&stored, pixels_.data() + position_, sizeof stored);
      position_ += sizeof stored;
      value = (static_cast<float>(stored) - 16384.0f) / 32768.0f;
    }
    return t;
  }

  static void compare(const std::vector<double>& ours, const nlohmann::json& theirs,
                      double if_undefined, double tolerance) {
    ASSERT_EQ(ours.size(), theirs.size());
    for (size_t i = 0; i < ours.size(); ++i) {
      const double expected = theirs[i].is_null() ? if_undefined : theirs[i].get<double>();
      EXPECT_NEAR(ours[i], expected, tolerance) << "image " << i;
    }
  }

  nlohmann::json cases_;
  std::vector<char> pixels_;
  size_t position_ = 0;
};

TEST_F(Reference, AllCasesAgreeWithScikitImage) {
  for (const auto& c : cases_) {
    SCOPED_TRACE(c["name"].get<std::string>());
    const auto dims = c["shape"].get<std::vector<int64_t>>();
    const Shape shape{std::span<const int64_t>(dims)};
    const Tensor truth = next(shape), reconstruction = next(shape);
    const ImageScores ours = score_images(truth, reconstruction);
    compare(ours.ssim, c["ssim"], NAN, 1e-7);
    compare(ours.psnr, c["psnr"], kMaxPsnr, 1e-7);
    compare(ours.mse, c["mse"], NAN, 1e-9);
    const ImageScores he19 = score_images(truth, reconstruction, MetricMode::kHe19);
    compare(he19.ssim, c["he19_ssim"], 0.0, 1e-7);
    compare(he19.psnr, c["he19_psnr"], kMaxPsnr, 1e-7);
  }
  EXPECT_EQ(position_, pixels_.size());
}

TEST(Metrics, LayoutDoesNotMatter) {
  const Tensor a = random_images({2, 8, 16, 12}, 1), b = random_images({2, 8, 16, 12}, 2);
  const ImageScores plain = score_images(a, b);
  EXPECT_EQ(score_images(a.with_layout(Layout::kChannelsLast), b).ssim, plain.ssim);
  EXPECT_EQ(score_images(a, b.with_layout(Layout::kChannelsLast)).ssim, plain.ssim);
}

TEST(Metrics, BadInputIsRefused) {
  const Tensor a = random_images({1, 1, 16, 16}, 1);
  EXPECT_THROW(score_images(a, random_images({1, 1, 16, 15}, 1)), Error);
  EXPECT_THROW(score_images(a, Tensor()), Error);
  EXPECT_THROW(score_images(a, a.to(Dtype::kBF16)), Error);
  EXPECT_THROW(score_images(a.reshape({1, 16, 16}), a.reshape({1, 16, 16})), Error);
  const Tensor small = random_images({1, 1, 10, 16}, 1);
  EXPECT_THROW(score_images(small, small), Error);
  EXPECT_EQ(score_images(small, small, MetricMode::kHe19).ssim.size(), 1u);

  Tensor bad = a.clone();
  bad.data<float>()[7] = 1.5f;
  EXPECT_THROW(score_images(bad, a), Error) << "normalised true images";
  EXPECT_EQ(score_images(a, bad).psnr.size(), 1u) << "a reconstruction may leave [0, 1]";
  for (float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    bad.data<float>()[7] = value;
    EXPECT_THROW(score_images(bad, a), Error);
    EXPECT_THROW(score_images(a, bad), Error);
  }
}

TEST(Bootstrap, MatchesTheNormalApproximation) {
  Rng rng(3);
  std::vector<double> values(400);
  double sum = 0, squares = 0;
  for (double& v : values) {
    v = 5 + 2 * rng.normal();
    sum += v;
    squares += v * v;
  }
  const double mean = sum / 400, stddev = std::sqrt(squares / 400 - mean * mean);
  const Interval interval = bootstrap(values, 1);
  EXPECT_NEAR(interval.mean, mean, 1e-12);
  EXPECT_NEAR(interval.low, mean - 1.96 * stddev / 20, 0.03);
  EXPECT_NEAR(interval.high, mean + 1.96 * stddev / 20, 0.03);
}

TEST(Bootstrap, IsReproducibleAndHandlesTheEdges) {
  Rng rng(3);
  std::vector<double> values(50);
  for (double& v : values) v = rng.uniform();
  const Interval a = bootstrap(values, 7), b = bootstrap(values, 7), c = bootstrap(values, 8);
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
  EXPECT_TRUE(a.low != c.low || a.high != c.high);
  EXPECT_LT(a.low, a.mean);
  EXPECT_GT(a.high, a.mean);
  const Interval one = bootstrap(std::vector<double>{3.5}, 1);
  EXPECT_EQ(one.low, 3.5);
  EXPECT_EQ(one.high, 3.5);
  EXPECT_THROW(bootstrap({}, 1), Error);
}

TEST(Polarity, NegativesAreFound) {
  const Tensor truth = random_images({4, 3, 16, 16}, 1);
  auto best = [&](const Tensor& reconstruction) {
    const PolarityScores s = score_polarities(truth, reconstruction, 1);
    EXPECT_EQ(s.scores.size(), 4u);
    EXPECT_EQ(s.scores[0].polarity, Polarity::kAsIs);
    return s.scores[s.best];
  };
  EXPECT_EQ(best(truth).polarity, Polarity::kAsIs);
  const Score negative = best(with_polarity(truth, Polarity::kNegative));
  EXPECT_EQ(negative.polarity, Polarity::kNegative);
  EXPECT_GT(negative.ssim.mean, 0.999);
  EXPECT_EQ(best(with_polarity(truth, Polarity::kLuminanceNegative)).polarity,
            Polarity::kLuminanceNegative);
  EXPECT_EQ(best(with_polarity(truth, Polarity::kHueNegative)).polarity, Polarity::kHueNegative);
}

TEST(Polarity, LuminanceNegativeKeepsHues) {
  // Y = .299 * .5 + .587 * .4 + .114 * .2 = .4071
  const Tensor pixel = Tensor::from({0.5f, 0.4f, 0.2f}, {1, 3, 1, 1});
  const auto out = with_polarity(pixel, Polarity::kLuminanceNegative).to_vector();
  EXPECT_NEAR(out[0], 0.6858, 1e-5);
  EXPECT_NEAR(out[1], 0.5858, 1e-5);
  EXPECT_NEAR(out[2], 0.3858, 1e-5);
}

TEST(Polarity, HueNegativeKeepsLuminance) {
  const Tensor pixel = Tensor::from({0.5f, 0.4f, 0.2f}, {1, 3, 1, 1});  // Y = .4071
  const auto out = with_polarity(pixel, Polarity::kHueNegative).to_vector();
  EXPECT_NEAR(out[0], 0.3142, 1e-5);
  EXPECT_NEAR(out[1], 0.4142, 1e-5);
  EXPECT_NEAR(out[2], 0.6142, 1e-5);
}

TEST(Polarity, TwiceGivesTheImagesAgain) {
  for (int64_t channels : {1, 3}) {
    const Tensor images = random_images({2, channels, 8, 8}, 3);
    for (Polarity polarity : polarities(channels)) {
      const auto back = with_polarity(with_polarity(images, polarity), polarity).to_vector();
      const auto before = images.to_vector();
      for (size_t i = 0; i < before.size(); ++i) EXPECT_NEAR(back[i], before[i], 1e-5);
    }
  }
}

TEST(Polarity, GreyImagesHaveOneNegative) {
  const Tensor truth = random_images({2, 1, 16, 16}, 1);
  EXPECT_EQ(score_polarities(truth, truth, 1).scores.size(), 2u);
  EXPECT_EQ(polarities(1).size(), 2u);
  EXPECT_EQ(with_polarity(Tensor::from({0.25f}, {1, 1, 1, 1}), Polarity::kNegative).item(), 0.75f);
  EXPECT_THROW(with_polarity(truth, Polarity::kLuminanceNegative), Error);
}

// Three seeds of one attack: the median counts, and the interval covers both luck and images.
TEST(BootstrapSeeds, IsTheMedianOverSeeds) {
  Rng rng(3);
  std::vector<std::vector<double>> by_seed(3, std::vector<double>(200));
  const double levels[] = {0.7, 0.2, 0.5};
  for (size_t i = 0; i < 3; ++i) {
    for (double& v : by_seed[i]) v = levels[i] + 0.1 * (rng.uniform() - 0.5);
  }
  const Interval all = bootstrap_seeds(by_seed, 1), middle = bootstrap(by_seed[2], 1);
  EXPECT_NEAR(all.mean, middle.mean, 1e-12);
  EXPECT_LT(all.low, 0.25);  // a third of the draws has one seed alone twice
  EXPECT_GT(all.high, 0.65);
  EXPECT_LT(middle.high - middle.low, 0.02);
  const Interval same = bootstrap_seeds(by_seed, 1);
  EXPECT_EQ(all.low, same.low);
  // Seeds that agree: about the interval over images.
  by_seed[0] = by_seed[1] = by_seed[2];
  const Interval agreed = bootstrap_seeds(by_seed, 1);
  EXPECT_NEAR(agreed.low, middle.low, 0.002);
  EXPECT_NEAR(agreed.high, middle.high, 0.002);
  by_seed.resize(1);
  EXPECT_EQ(bootstrap_seeds(by_seed, 1).low, middle.low);
  by_seed.push_back({1});
  EXPECT_THROW(bootstrap_seeds(by_seed, 1), Error);
}

// Values of scipy.stats.permutation_test(permutation_type="samples") and scipy.stats.bootstrap
// (method="percentile"), version 1.10.
TEST(AreaUnderCurve, CountsPairs) {
  Rng rng(3);
  std::vector<double> in(70), out(50);
  for (double& v : in) v = std::round(4 * rng.normal()) + 1;  // with equal ones
  for (double& v : out) v = std::round(4 * rng.normal());
  double right = 0;
  for (const double a : in) {
    for (const double b : out) right += a > b ? 1 : a == b ? 0.5 : 0;
  }
  const Interval area = area_under_curve(in, out);
  EXPECT_NEAR(area.mean, right / (70 * 50), 1e-12);
  EXPECT_EQ(area_under_curve(std::vector<double>{2, 3}, std::vector<double>{0, 1}).mean, 1);
  EXPECT_THROW(area_under_curve({}, out), Error);
}

// The interval holds the truth in 95 of 100 cases. Two normal distributions, one deviation apart:
// the area is Phi(1 / sqrt(2)).
TEST(AreaUnderCurve, HasAnIntervalThatHoldsTheTruth) {
  const double truth = 0.5 * std::erfc(-0.5);
  Rng rng(4);
  int held = 0;
  for (int trial = 0; trial < 1000; ++trial) {
    std::vector<double> in(60), out(80);
    for (double& v : in) v = rng.normal() + 1;
    for (double& v : out) v = rng.normal();
    const Interval area = area_under_curve(in, out);
    held += area.low <= truth && truth <= area.high;
  }
  EXPECT_NEAR(held, 950, 30);
}

TEST(PairedTest, IsSciPysPermutationTest) {
  const std::vector<double> few_a = {0.744, 0.746, 0.512, 0.329, 0.143, 0.407,
                                     0.427, 0.136, 0.139, 0.899, 0.622, 0.288};
  const std::vector<double> few_b = {0.726, 0.856, 0.552, 0.272, 0.169, 0.379,
                                     0.426, 0.142, 0.133, 0.957, 0.649, 0.289};
  EXPECT_EQ(paired_test(few_a, few_b, 1).p_value, 0.33203125);  // of all 4096 assignments
  EXPECT_EQ(paired_test(few_b, few_a, 1).p_value, 0.33203125);
  EXPECT_NEAR(paired_test(few_a, few_b, 1).difference.mean, 0.013166666666666667, 1e-12);

  const std::vector<double> a = {
      0.643, 0.796, 0.282, 0.816, 0.798, 0.115, 0.666, 0.101, 0.503, 0.449, 0.263, 0.36,
      0.745, 0.353, 0.219, 0.659, 0.459, 0.739, 0.288, 0.356, 0.74,  0.506, 0.505, 0.289,
      0.112, 0.847, 0.169, 0.776, 0.394, 0.861, 0.42,  0.849, 0.545, 0.292, 0.693, 0.64,
      0.647, 0.471, 0.278, 0.613, 0.186, 0.654, 0.608, 0.401, 0.739, 0.255, 0.412, 0.738,
      0.404, 0.671, 0.59,  0.853, 0.893, 0.679, 0.747, 0.222, 0.67,  0.778, 0.421, 0.543};
  const std::vector<double> b = {
      0.613, 0.822, 0.254, 0.814, 0.806, 0.11,  0.672, 0.149, 0.495, 0.419, 0.216, 0.362,
      0.742, 0.369, 0.213, 0.653, 0.445, 0.731, 0.301, 0.353, 0.751, 0.571, 0.527, 0.25,
      0.172, 0.865, 0.149, 0.811, 0.403, 0.851, 0.409, 0.827, 0.554, 0.332, 0.691, 0.661,
      0.711, 0.443, 0.294, 0.612, 0.162, 0.631, 0.616, 0.422, 0.731, 0.265, 0.442, 0.755,
      0.438, 0.693, 0.613, 0.916, 0.92,  0.691, 0.776, 0.202, 0.668, 0.81,  0.448, 0.597};
  const PairedTest many = paired_test(a, b, 1);
  EXPECT_NEAR(many.p_value, 0.0172, 0.0015);  // a million random assignments
  EXPECT_NEAR(many.difference.mean, 0.0083, 1e-12);
  EXPECT_NEAR(many.difference.low, 0.00178, 0.0005);
  EXPECT_NEAR(many.difference.high, 0.01490, 0.0005);
}

TEST(PairedTest, OfEqualAndOfFarValues) {
  const std::vector<double> same(30, 0.25);
  EXPECT_EQ(paired_test(same, same, 1).p_value, 1);
  std::vector<double> far, near;
  for (int i = 0; i < 100; ++i) near.push_back(0.001 * i), far.push_back(0.001 * i + 0.5);
  EXPECT_EQ(paired_test(near, far, 1).p_value, 1.0 / 100001);
  EXPECT_NEAR(paired_test(near, far, 1).difference.low, 0.5, 1e-12);
  EXPECT_EQ(paired_test({near.data(), 3}, {far.data(), 3}, 1).p_value, 0.25);  // 2 of 8
  EXPECT_THROW(paired_test(near, same, 1), Error);
  EXPECT_THROW(paired_test({}, {}, 1), Error);
}

}  // namespace
}  // namespace ens
