#include "ensemble/protect/protection.h"

#include <gtest/gtest.h>

#include "nn/core/error.h"

namespace ens {
namespace {

TEST(FixedNoise, AddsTheSameToEveryFeature) {
  const auto protection = fixed_noise(Tensor::from({1, -2, 0.5f, 4}, {1, 2, 2}));
  Tensor features = Tensor::from({1, 1, 1, 1, 10, 20, 30, 40}, {2, 1, 2, 2});
  protection->apply(features);
  EXPECT_EQ(features.to_vector(), (std::vector<float>{2, -1, 1.5f, 5, 11, 18, 30.5f, 44}));
}

TEST(FixedNoise, RefusesFeaturesOfAnotherSize) {
  const auto protection = fixed_noise(Tensor::zeros({1, 2, 2}));
  Tensor features = Tensor::zeros({2, 1, 2, 3});
  EXPECT_THROW(protection->apply(features), Error);
}

}  // namespace
}  // namespace ens
