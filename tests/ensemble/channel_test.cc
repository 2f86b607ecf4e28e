// SPDX-License-Identifier: Apache-2.0
#include "ensemble/protect/channel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "base/error.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

using Floats = std::vector<float>;

constexpr int64_t kElements = 128;

Tensor random_features(int64_t images, uint64_t seed, float size = 1) {
  Tensor features = Tensor::empty({images, 8, 4, 4});
  Rng rng(seed);
  rng.fill_normal(features.span<float>(), 0.3f * size, size);
  return features;
}

Tensor sent(const Channel& channel, const Tensor& features, std::span<const Seed> seeds = {}) {
  Tensor z = features.clone();
  make_protection({channel_step(channel)})->apply(z, seeds);
  return z;
}

// Computed here, in double: what is sent less the feature scaled to the mean square P.
std::vector<double> noise_of(const Channel& channel, const Tensor& features, const Tensor& z) {
  std::vector<double> noise;
  const int64_t size = features.numel() / features.dim(0);
  for (int64_t i = 0; i < features.dim(0); ++i) {
    const float* u = features.data<float>() + i * size;
    double square = 0;
    for (int64_t j = 0; j < size; ++j) square += double{u[j]} * u[j];
    const double factor = std::sqrt(static_cast<double>(size) * channel.power / square);
    for (int64_t j = 0; j < size; ++j)
      noise.push_back(z.data<float>()[i * size + j] - u[j] * factor);
  }
  return noise;
}

double normal_cdf(double x, double sigma) { return std::erfc(-x / sigma / std::sqrt(2.0)) / 2; }

// The values of the specification: R = 32 gives -3.8 dB, 64 gives 0 dB; with fresh noise 4, 16 and
// 64 sends of R = 32 hold 90, 188 and 306 bits.
TEST(Channel, PowerIsWhatTheBitsAllow) {
  const Channel narrow = make_channel(32, kElements, false);
  EXPECT_NEAR(narrow.power, 0.41421356, 1e-8);
  EXPECT_NEAR(narrow.bits_of_sends(1), 32, 1e-9);
  EXPECT_NEAR(narrow.bits_of_sends(4), 90, 0.5);
  EXPECT_NEAR(narrow.bits_of_sends(16), 188, 0.5);
  EXPECT_NEAR(narrow.bits_of_sends(64), 306, 0.5);
  EXPECT_NEAR(make_channel(64, kElements, true).power, 1, 1e-12);
}

TEST(Channel, BitsThatInt8CannotCarryAreRefused) {
  EXPECT_NO_THROW(make_channel(256, kElements, true));
  try {
    make_channel(1024, kElements, true);
    FAIL() << "8 bits in an element";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("protection.channel.bits"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("use at most 4"), std::string::npos) << error.what();
  }
  EXPECT_THROW(make_channel(0, kElements, true), Error);
  EXPECT_THROW(make_channel(64, 0, true), Error);
}

TEST(Channel, NoiseIsStandardNormalWhateverTheFeaturesAre) {
  for (const double bits : {8.0, 64.0, 256.0}) {
    const Channel channel = make_channel(bits, kElements, false);
    const Tensor features = random_features(2000, 3, bits > 100 ? 1e-3f : 40);
    std::vector<double> noise = noise_of(channel, features, sent(channel, features));
    const auto n = static_cast<double>(noise.size());
    // Rounding to steps adds a uniform error.
    const double variance = 1 + channel.int8_step * channel.int8_step / 12.0;
    double moments[5] = {};
    for (const double x : noise) {
      double power = 1;
      for (double& moment : moments) moment += power / n, power *= x;
    }
    EXPECT_NEAR(moments[1], 0, 5 / std::sqrt(n)) << bits;
    EXPECT_NEAR(moments[2], variance, 5 * std::sqrt(2 / n)) << bits;
    EXPECT_NEAR(moments[3], 0, 5 * std::sqrt(15 / n)) << bits;
    EXPECT_NEAR(moments[4], 3 * variance * variance, 5 * std::sqrt(96 / n)) << bits;
    std::ranges::sort(noise);
    double distance = 0;  // Kolmogorov-Smirnov
    for (size_t i = 0; i < noise.size(); ++i) {
      const double below = normal_cdf(noise[i], std::sqrt(variance));
      distance = std::max({distance, std::abs(below - static_cast<double>(i) / n),
                           std::abs(below - static_cast<double>(i + 1) / n)});
    }
    EXPECT_LT(distance, 1.95 / std::sqrt(n)) << bits;  // one in a thousand
    // Neither neighbours nor the same element of two images are alike.
    double pairs = 0, images = 0;
    const Tensor again = sent(channel, features);
    const std::vector<double> other = noise_of(channel, features, again);
    const std::vector<double> first = noise_of(channel, features, sent(channel, features));
    for (size_t i = 1; i < first.size(); ++i) pairs += first[i] * first[i - 1] / n;
    for (size_t i = kElements; i < first.size(); ++i) images += first[i] * first[i - kElements] / n;
    EXPECT_NEAR(pairs, 0, 5 / std::sqrt(n));
    EXPECT_NEAR(images, 0, 5 / std::sqrt(n));
    EXPECT_NEAR(std::inner_product(first.begin(), first.end(), other.begin(), 0.0) / n, 0,
                5 / std::sqrt(n));
  }
}

TEST(Channel, SendsStepsOfInt8) {
  const Channel channel = make_channel(64, kElements, false);
  for (const float z : sent(channel, random_features(200, 4)).to_vector()) {
    const float steps = z / channel.int8_step;
    EXPECT_NEAR(steps, std::round(steps), 1e-3);
    EXPECT_LE(std::abs(steps), 127.001f);
  }
}

TEST(Channel, ASeedDecidesTheNoiseOfItsImageAlone) {
  const Channel channel = make_channel(64, kElements, true);
  const Tensor features = random_features(3, 5);
  std::vector<Seed> seeds(3);
  for (size_t i = 0; i < seeds.size(); ++i) seeds[i].fill(static_cast<uint8_t>(i));
  const Tensor all = sent(channel, features, seeds);
  EXPECT_EQ(all.to_vector(), sent(channel, features, seeds).to_vector());
  const Tensor last = sent(channel, features.rows(2, 1).clone(), {&seeds[2], 1});
  EXPECT_EQ(all.rows(2, 1).to_vector(), last.to_vector());
  EXPECT_NE(sent(channel, features).to_vector(), sent(channel, features).to_vector());
}

TEST(Channel, RefusesWhatIsNoNumber) {
  const Channel channel = make_channel(64, kElements, true);
  for (const float bad : {NAN, INFINITY}) {
    Tensor features = random_features(2, 6);
    features.data<float>()[200] = bad;
    EXPECT_THROW(sent(channel, features), Error);
  }
  Tensor zeros = Tensor::zeros({1, 8, 4, 4});  // no direction: nothing but noise is sent
  EXPECT_NO_THROW(sent(channel, zeros));
}

TEST(Channel, APowerThatItsBitsDoNotAllowFitsNoFeature) {
  const Channel channel = make_channel(64, kElements, true);
  EXPECT_NO_THROW(check({channel_step(channel)}, {8, 4, 4}));
  EXPECT_THROW(check({channel_step(channel)}, {16, 4, 4}), Error);
  Channel stronger = channel;
  stronger.power *= 1.01;
  EXPECT_THROW(check({channel_step(stronger)}, {8, 4, 4}), Error);
  for (const Floats& values : {Floats{64, 1}, Floats{64, -1, 0}, Floats{64, 1e6f, 0},
                               Floats{64, 1, 0.5f}, Floats{0, 1, 0}}) {
    EXPECT_THROW(make_protection({{"channel", Tensor::from(values, {std::ssize(values)})}}), Error);
  }
  const auto found = find_channel({channel_step(channel)}, kElements);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->bits, 64);
  EXPECT_EQ(found->elements, kElements);
  EXPECT_TRUE(found->keyed);
  EXPECT_FALSE(find_channel({}, kElements));
}

// With keyed noise the same image has the same noise; another draw in front would show through it.
TEST(Channel, NothingElseIsDrawnBesideIt) {
  const ProtectionStep channel = channel_step(make_channel(64, kElements, true));
  const Shape feature{8, 4, 4};
  EXPECT_NO_THROW(check({channel}, feature));
  for (const ProtectionStep& other : {ProtectionStep{"dropout", Tensor::from({0.3f}, {1})},
                                      ProtectionStep{"fresh_noise", Tensor::from({0.1f}, {1})}}) {
    EXPECT_THROW(check({other, channel}, feature), Error);
    EXPECT_THROW(check({channel, other}, feature), Error);
  }
}

}  // namespace
}  // namespace ens
