// SPDX-License-Identifier: Apache-2.0
#include "ensemble/protect/protection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <thread>
#include <vector>

#include "base/error.h"

namespace ens {
namespace {

using Floats = std::vector<float>;

Floats applied(const Protection& protection, const Floats& values, const Shape& shape) {
  Tensor features = Tensor::from(values, shape);
  protection.apply(features);
  return features.to_vector();
}

std::unique_ptr<Protection> step(const std::string& name, const Tensor& values) {
  return make_protection({{name, values}});
}

Tensor number(float value) { return Tensor::from({value}, {1}); }

// ---- fixed noise

TEST(FixedNoise, AddsTheSameToEveryFeature) {
  const auto protection = step("fixed_noise", Tensor::from({1, -2, 0.5f, 4}, {1, 2, 2}));
  EXPECT_EQ(applied(*protection, {1, 1, 1, 1, 10, 20, 30, 40}, {2, 1, 2, 2}),
            (Floats{2, -1, 1.5f, 5, 11, 18, 30.5f, 44}));
}

TEST(FixedNoise, RefusesFeaturesOfAnotherSize) {
  const auto protection = step("fixed_noise", Tensor::zeros({1, 2, 2}));
  Tensor features = Tensor::zeros({2, 1, 2, 3});
  EXPECT_THROW(protection->apply(features), Error);
}

// ---- a bank

TEST(NoiseBank, EveryImageGetsOneOfThemEquallyOften) {
  const auto protection = step("noise_bank", Tensor::from({1, 2, 10, 20, 100, 200}, {3, 1, 1, 2}));
  constexpr int64_t kImages = 6000;
  const Floats out = applied(*protection, Floats(2 * kImages, 0.5f), {kImages, 1, 1, 2});
  std::map<float, int> seen;
  for (size_t i = 0; i < out.size(); i += 2) {
    EXPECT_EQ(out[i + 1] - 0.5f, 2 * (out[i] - 0.5f)) << "half of one noise, half of another";
    ++seen[out[i] - 0.5f];
  }
  ASSERT_EQ(seen.size(), 3u);
  for (const auto& [first, count] : seen) EXPECT_NEAR(count, 2000, 6 * 36.5) << first;  // 6 sd
  EXPECT_NE(applied(*protection, Floats(2 * kImages, 0.5f), {kImages, 1, 1, 2}), out);
}

TEST(NoiseBank, RefusesWhatDoesNotFit) {
  const auto protection = step("noise_bank", Tensor::zeros({3, 1, 2, 2}));
  Tensor features = Tensor::zeros({3, 1, 2, 1});
  EXPECT_THROW(protection->apply(features), Error);
  EXPECT_THROW(step("noise_bank", Tensor::zeros({4})), Error);
}

TEST(FactorBank, EveryImageIsMultipliedByOneOfThem) {
  const auto protection = step("factor_bank", Tensor::from({2, 3, 5, 7}, {2, 1, 1, 2}));
  const Floats out = applied(*protection, Floats(200, 0.5f), {100, 1, 1, 2});
  std::map<float, int> seen;
  for (size_t i = 0; i < out.size(); i += 2) {
    EXPECT_EQ(out[i + 1], out[i] == 1.0f ? 1.5f : 3.5f);
    ++seen[out[i]];
  }
  EXPECT_EQ(seen.size(), 2u);
  EXPECT_EQ(mean_factor({{"factor_bank", Tensor::from({2, 3, 5, 7}, {2, 1, 1, 2})}}).to_vector(),
            (Floats{3.5f, 5}));
}

// ---- fresh noise

TEST(FreshNoise, IsGaussianAndNeverTheSame) {
  const auto protection = step("fresh_noise", number(0.5f));
  constexpr size_t kCount = 200'001;  // odd: pairs are drawn
  const Floats first = applied(*protection, Floats(kCount, 3), {1, kCount});
  const Floats second = applied(*protection, Floats(kCount, 3), {1, kCount});
  double mean = 0, square = 0, fourth = 0, across = 0, neighbours = 0;
  std::vector<int> below(4);  // of -2, -1, 0, 1 standard deviations
  for (size_t i = 0; i < kCount; ++i) {
    const double z = (first[i] - 3.0) / 0.5;
    mean += z / kCount;
    square += z * z / kCount;
    fourth += z * z * z * z / kCount;
    across += z * (second[i] - 3.0) / 0.5 / kCount;
    if (i > 0) neighbours += z * (first[i - 1] - 3.0) / 0.5 / kCount;
    for (int k = 0; k < 4; ++k) below[static_cast<size_t>(k)] += z < k - 2;
  }
  const double sd = 1 / std::sqrt(double{kCount});  // of a mean; tolerances are 6 of its like
  EXPECT_NEAR(mean, 0, 6 * sd);
  EXPECT_NEAR(square, 1, 6 * std::sqrt(2) * sd);
  EXPECT_NEAR(fourth, 3, 6 * std::sqrt(96) * sd);
  EXPECT_NEAR(across, 0, 6 * sd);
  EXPECT_NEAR(neighbours, 0, 6 * sd);
  for (int k = 0; k < 4; ++k) {
    const double expected = 0.5 * std::erfc(-(k - 2) / std::sqrt(2.0));
    EXPECT_NEAR(below[static_cast<size_t>(k)] / double{kCount}, expected, 6 * 0.5 * sd) << k - 2;
  }
}

// ---- dropout

TEST(DropoutFeatures, ZeroesAFractionAndScalesTheRest) {
  const auto protection = step("dropout", number(0.25f));
  constexpr size_t kCount = 100'001;
  const Floats first = applied(*protection, Floats(kCount, 3), {1, kCount});
  const Floats second = applied(*protection, Floats(kCount, 3), {1, kCount});
  double zero = 0, both = 0;
  for (size_t i = 0; i < kCount; ++i) {
    ASSERT_TRUE(first[i] == 0 || first[i] == 4) << first[i];
    zero += first[i] == 0;
    both += first[i] == 0 && second[i] == 0;
  }
  const double sd = std::sqrt(0.25 * 0.75 / kCount);
  EXPECT_NEAR(zero / kCount, 0.25, 6 * sd);
  EXPECT_NEAR(both / kCount, 0.0625, 6 * sd) << "drawn anew each time";
}

TEST(DropoutFeatures, RefusesAnImpossibleFraction) {
  EXPECT_THROW(step("dropout", number(1)), Error);
  EXPECT_THROW(step("dropout", number(-0.1f)), Error);
  EXPECT_THROW(step("fresh_noise", number(-1)), Error);
  EXPECT_THROW(step("fresh_noise", number(INFINITY)), Error);
  EXPECT_THROW(step("fresh_noise", Tensor::zeros({2})), Error);
  EXPECT_THROW(step("no_such_step", number(1)), Error);
}

// ---- together

TEST(MakeProtection, NothingForAnEmptySpec) {
  EXPECT_EQ(applied(*make_protection({}), {1, 2, 3, 4}, {1, 1, 2, 2}), (Floats{1, 2, 3, 4}));
}

// Dropout comes first: where it strikes, the noise alone is left.
TEST(MakeProtection, StepsAreAppliedInTheirOrder) {
  ProtectionSpec spec{{"dropout", number(0.5f)}, {"fixed_noise", Tensor::full({1, 1, 1000}, 7)}};
  Floats out = applied(*make_protection(spec), Floats(4000, 1), {4, 1, 1, 1000});
  EXPECT_EQ(std::ranges::count(out, 7.0f) + std::ranges::count(out, 9.0f), 4000);
  EXPECT_GT(std::ranges::count(out, 7.0f), 1500);
  EXPECT_GT(std::ranges::count(out, 9.0f), 1500);
  spec.push_back({"fresh_noise", number(1e-3f)});  // behind both: no element is left as it was
  out = applied(*make_protection(spec), Floats(4000, 1), {4, 1, 1, 1000});
  EXPECT_LT(std::ranges::count(out, 7.0f) + std::ranges::count(out, 9.0f), 10);
  for (float v : out) EXPECT_LT(std::min(std::abs(v - 7), std::abs(v - 9)), 0.01f);
  std::swap(spec[0], spec[1]);
  spec.pop_back();
  out = applied(*make_protection(spec), Floats(4000, 1), {4, 1, 1, 1000});
  EXPECT_EQ(std::ranges::count(out, 0.0f) + std::ranges::count(out, 16.0f), 4000);
}

TEST(MakeProtection, ServesSeveralThreadsAtOnce) {
  const auto protection = make_protection({{"dropout", number(0.1f)},
                                           {"noise_bank", Tensor::zeros({5, 1, 1, 4})},
                                           {"fresh_noise", number(1)}});
  std::vector<Floats> results(4);
  {
    std::vector<std::jthread> threads;
    for (Floats& result : results) {
      threads.emplace_back([&] {
        for (int i = 0; i < 50; ++i) result = applied(*protection, Floats(400, 0), {100, 1, 1, 4});
      });
    }
  }
  for (size_t i = 1; i < results.size(); ++i) EXPECT_NE(results[i], results[0]);
}

TEST(MeanNoise, IsTheNoiseOrTheMeanOfTheBank) {
  EXPECT_FALSE(mean_noise({}).defined());
  const Tensor noise = Tensor::from({1, 2, 3, 4}, {1, 2, 2});
  EXPECT_EQ(mean_noise({{"fixed_noise", noise}}).to_vector(), (Floats{1, 2, 3, 4}));
  const Tensor bank = Tensor::from({1, 2, 3, 4, 5, -2, 0, 1}, {2, 1, 2, 2});
  const Tensor mean = mean_noise({{"noise_bank", bank}, {"fresh_noise", number(3)}});
  EXPECT_EQ(mean.shape(), (Shape{1, 2, 2}));
  EXPECT_EQ(mean.to_vector(), (Floats{3, 0, 1.5f, 2.5f}));
}

TEST(CheckProtection, NamesWhatIsWrongAndNoValues) {
  const Shape feature{2, 1, 2};
  const auto problem = [&](const ProtectionSpec& spec, const Shape& shape) -> std::string {
    try {
      check(spec, shape);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::kUsage);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(problem({}, feature), "");
  EXPECT_EQ(problem({{"fixed_noise", Tensor::zeros(feature)}}, feature), "");
  EXPECT_EQ(problem({{"noise_bank", Tensor::zeros({7, 2, 1, 2})}}, feature), "");
  EXPECT_EQ(problem({{"fixed_noise", Tensor::zeros({5})}}, {5}), "");
  EXPECT_EQ(problem({{"noise_bank", Tensor::zeros({3, 5})}}, {5}), "");
  EXPECT_NE(problem({{"fixed_noise", Tensor::zeros({2, 2, 1})}}, feature), "");
  EXPECT_NE(problem({{"noise_bank", Tensor::zeros({0, 2, 1, 2})}}, feature), "");
  EXPECT_NE(problem({{"noise_bank", Tensor::zeros({1, 2})}}, feature), "");
  EXPECT_NE(problem({{"fixed_noise", Tensor::zeros(feature, Dtype::kBF16)}}, feature), "");
  EXPECT_NE(problem({{"fresh_noise", number(-1)}}, feature), "");
  EXPECT_NE(problem({{"fresh_noise", number(NAN)}}, feature), "");
  EXPECT_NE(problem({{"dropout", number(1)}}, feature), "");
  EXPECT_NE(problem({{"dropout", number(NAN)}}, feature), "");
  const std::string bad =
      problem({{"fixed_noise", Tensor::from({0.125f, 0.75f, 2.5f, NAN}, feature)}}, feature);
  EXPECT_NE(bad.find("noise"), std::string::npos);
  EXPECT_EQ(bad.find("125"), std::string::npos);
  EXPECT_EQ(bad.find("75"), std::string::npos);
}

}  // namespace
}  // namespace ens
