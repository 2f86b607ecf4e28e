// SPDX-License-Identifier: Apache-2.0
// What trains the protections: values against plain loops, gradients against numeric ones.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "base/error.h"
#include "ensemble/protect/adversary_train.h"
#include "ensemble/protect/channel.h"
#include "ensemble/protect/distance_train.h"
#include "ensemble/protect/feature_train.h"
#include "ensemble/protect/noise_bank_train.h"
#include "proto/config.pb.h"
#include "tests/support/gradcheck.h"

namespace ens {
namespace {

using naive::Array;
using Floats = std::vector<float>;

Tensor normal(const Shape& shape, uint64_t seed) {
  Tensor t = Tensor::empty(shape);
  Rng rng(seed);
  rng.fill_normal(t.span<float>(), 0, 1);
  return t;
}

Tensor number(float value) { return Tensor::from({value}, {1}); }

// ---- distance correlation

std::vector<double> distances(const Array& x) {
  const auto n = static_cast<size_t>(x.shape[0]), size = x.size() / n;
  std::vector<double> d(n * n);
  for (size_t j = 0; j < n; ++j) {
    for (size_t k = 0; k < n; ++k) {
      double sum = 0;
      for (size_t i = 0; i < size; ++i) sum += std::pow(x.v[j * size + i] - x.v[k * size + i], 2);
      d[j * n + k] = std::sqrt(sum);
    }
  }
  return d;
}

std::vector<double> centred(const Array& x) {
  std::vector<double> d = distances(x);
  const auto n = static_cast<size_t>(x.shape[0]);
  std::vector<double> rows(n), columns(n);
  double all = 0;
  for (size_t j = 0; j < n; ++j) {
    for (size_t k = 0; k < n; ++k) {
      rows[j] += d[j * n + k] / static_cast<double>(n);
      columns[k] += d[j * n + k] / static_cast<double>(n);
      all += d[j * n + k] / static_cast<double>(n * n);
    }
  }
  for (size_t j = 0; j < n; ++j) {
    for (size_t k = 0; k < n; ++k) d[j * n + k] += all - rows[j] - columns[k];
  }
  return d;
}

double mean_product(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum / static_cast<double>(a.size());
}

double naive_distance_correlation(const std::vector<Array>& xy) {
  const auto a = centred(xy[0]), b = centred(xy[1]);
  return std::sqrt(mean_product(a, b) / std::sqrt(mean_product(a, a) * mean_product(b, b)));
}

TEST(DistanceCorrelation, ValueAndGradientAreThoseOfThePlainLoop) {
  const Tensor x = normal({6, 2, 3, 1}, 1), noise = normal({6, 4, 1, 1}, 2);
  Tensor y = noise.clone();  // some dependence
  for (int64_t i = 0; i < 6; ++i) y.data<float>()[i * 4] += 2 * x.data<float>()[i * 6];
  const Var vx(x, true), vy(y, true);
  const Var value = distance_correlation(vx, vy);
  const std::vector<Array> arrays{Array(x), Array(y)};
  EXPECT_NEAR(value.item(), naive_distance_correlation(arrays), 1e-5);
  value.backward();
  for (size_t which : {size_t{0}, size_t{1}}) {
    EXPECT_TRUE(test::is_gradient(naive_distance_correlation, arrays, which,
                                  Array(which ? vy.grad() : vx.grad()), {.tolerance = 1e-3}));
  }
}

TEST(DistanceCorrelation, IsOneForARotatedScaledCopy) {
  const Tensor x = normal({40, 2}, 3);
  Tensor y = Tensor::empty({40, 2});
  for (int64_t i = 0; i < 40; ++i) {
    const float a = x.data<float>()[2 * i], b = x.data<float>()[2 * i + 1];
    y.data<float>()[2 * i] = 5 * (0.6f * a - 0.8f * b) + 7;
    y.data<float>()[2 * i + 1] = 5 * (0.8f * a + 0.6f * b) - 3;
  }
  EXPECT_NEAR(distance_correlation(Var(x), Var(y)).item(), 1, 1e-5);
  EXPECT_NEAR(unbiased_distance_correlation(x, y), 1, 1e-5);
}

// Independent and of high dimension: the plain form says 0.9, the corrected one about 0.
TEST(DistanceCorrelation, UnbiasedFormSeesNoLeakInIndependentNoise) {
  const Tensor x = normal({100, 300}, 4), y = normal({100, 400}, 5);
  EXPECT_GT(distance_correlation(Var(x), Var(y)).item(), 0.8);
  EXPECT_LT(std::abs(unbiased_distance_correlation(x, y)), 0.25);  // a square root of about 0.02
  Tensor half = y.clone();
  for (int64_t i = 0; i < 100; ++i) {
    for (int64_t k = 0; k < 300; ++k)
      half.data<float>()[i * 400 + k] = x.data<float>()[i * 300 + k];
  }
  EXPECT_GT(unbiased_distance_correlation(x, half), 0.6);
}

TEST(DistanceCorrelation, EqualRowsAndConstantsGiveNumbers) {
  const Tensor x = normal({8, 3}, 6);
  Tensor y = normal({8, 3}, 7);
  y.rows(1, 1).copy_from(y.rows(0, 1));
  const Var some(y, true);
  const Var value = distance_correlation(Var(x), some);
  EXPECT_TRUE(std::isfinite(value.item()));
  value.backward();
  for (float g : some.grad().to_vector()) EXPECT_TRUE(std::isfinite(g));
  const Var same(Tensor::full({8, 3}, 2), true);
  const Var zero = distance_correlation(Var(x), same);
  EXPECT_NEAR(zero.item(), 0, 1e-2);
  zero.backward();
  for (float g : same.grad().to_vector()) EXPECT_TRUE(std::isfinite(g));
  EXPECT_EQ(unbiased_distance_correlation(x, same.value()), 0);
  EXPECT_THROW(distance_correlation(Var(x), Var(normal({7, 3}, 8))), Error);
}

// ---- noise, fresh noise and dropout in training

TEST(FeatureTraining, DoesWhatTheEdgeDoes) {
  const Tensor noise = normal({2, 3, 3}, 1), features = normal({4, 2, 3, 3}, 2);
  FeatureTraining fixed({{"fixed_noise", noise}}, 9);
  Tensor sent = features.clone();
  make_protection(fixed.spec())->apply(sent);
  EXPECT_EQ(fixed.forward(Var(features)).value().to_vector(), sent.to_vector());

  FeatureTraining all({{"dropout", number(0.4f)},
                       {"fixed_noise", Tensor::full({1, 1, 5000}, 3)},
                       {"fresh_noise", number(0.01f)}},
                      9);
  const Var ones(Tensor::full({2, 1, 1, 5000}, 1), true);
  const Var out = all.forward(ones);
  int dropped = 0;
  for (float v : out.value().to_vector()) {
    const float rest = std::abs(v - 3) < 0.1f ? v - 3 : v - 3 - 1 / 0.6f;
    EXPECT_LT(std::abs(rest), 0.06f);
    dropped += std::abs(v - 3) < 0.1f;
  }
  EXPECT_NEAR(dropped, 4000, 6 * 49);
  sum(out).backward();  // nothing comes back through what was dropped
  const Floats slope = ones.grad().to_vector(), values = out.value().to_vector();
  for (size_t i = 0; i < slope.size(); ++i) {
    EXPECT_FLOAT_EQ(slope[i], std::abs(values[i] - 3) < 0.1f ? 0 : 1 / 0.6f);
  }
}

// What is left of a protection without its draws, against what the edge does where nothing is
// drawn.
TEST(MeanProtection, AddsWhatIsFixedSelectsAndLeavesDrawsOut) {
  const Tensor noise = normal({2, 3, 3}, 1), features = normal({4, 2, 3, 3}, 2);
  const auto by_edge = [&](const ProtectionSpec& spec) {
    Tensor sent = features.clone();
    make_protection(spec)->apply(sent);
    return sent.to_vector();
  };
  const ProtectionSpec fixed = {{"fixed_noise", noise}}, largest = {{"largest", number(0.3f)}};
  for (const ProtectionSpec& spec : {fixed, largest}) {
    EXPECT_EQ(mean_protection(spec)(Var(features)).value().to_vector(), by_edge(spec));
    EXPECT_FALSE(draws_anew(spec));
  }
  EXPECT_FALSE(mean_protection({}));
  for (const char* step : {"fresh_noise", "dropout"}) {
    EXPECT_FALSE(mean_protection({{step, number(0.5f)}})) << step;
    EXPECT_TRUE(draws_anew({{step, number(0.5f)}})) << step;
  }
}

// What a training step sends has the power, the noise and the steps of int8 of the channel; the
// gradient is that of the scaling alone, by central differences of a computation in double.
TEST(FeatureTraining, SendsThroughTheChannelAndLearnsThroughItsScaling) {
  const Channel channel = make_channel(40, 18, false);
  FeatureTraining training({channel_step(channel)}, 9);
  const Tensor features = normal({500, 2, 3, 3}, 2);
  const Var u(features, true);
  const Var z = training.forward(u);
  const Tensor weights = normal({500, 2, 3, 3}, 3);
  const auto scaled = [&](const std::vector<double>& x) {
    double square = 0, value = 0;
    for (const double v : x) square += v * v;
    for (size_t i = 0; i < x.size(); ++i) {
      value += x[i] * weights.data<float>()[i] * std::sqrt(18 * channel.power / square);
    }
    return value;
  };
  double sum_of_noise = 0, squares = 0;
  for (int64_t image = 0; image < 500; ++image) {
    double square = 0;
    for (int64_t i = 0; i < 18; ++i) {
      square += std::pow(features.data<float>()[image * 18 + i], 2);
    }
    for (int64_t i = 0; i < 18; ++i) {
      const float value = z.value().data<float>()[image * 18 + i];
      const double noise =
          value - features.data<float>()[image * 18 + i] * std::sqrt(18 * channel.power / square);
      sum_of_noise += noise;
      squares += noise * noise;
      EXPECT_NEAR(value / channel.int8_step, std::round(value / channel.int8_step), 1e-2);
    }
  }
  EXPECT_NEAR(sum_of_noise / 9000, 0, 5 / std::sqrt(9000.0));
  EXPECT_NEAR(squares / 9000, 1 + std::pow(channel.int8_step, 2) / 12, 5 * std::sqrt(2 / 9000.0));
  sum(mul(z, Var(weights))).backward();
  for (int64_t i = 0; i < 18; ++i) {
    std::vector<double> up, down;
    for (int64_t j = 0; j < 18; ++j) {
      const double x = features.data<float>()[j];
      up.push_back(x + (i == j) * 1e-4), down.push_back(x - (i == j) * 1e-4);
    }
    EXPECT_NEAR(u.grad().data<float>()[i], (scaled(up) - scaled(down)) / 2e-4, 2e-3) << i;
  }
  EXPECT_TRUE(training.has_host_state()) << "a captured step would repeat its noise forever";
}

// Another power while training goes on; what the edge gets stays.
TEST(FeatureTraining, MaySendWithOtherValuesThanTheEdgeWill) {
  const Channel channel = make_channel(40, 5000, false);
  FeatureTraining training({channel_step(channel)}, 9);
  Channel loud = channel;
  loud.power = 100;
  training.set_values("channel", channel_step(loud).values);
  double square = 0;
  const Tensor z = training.forward(Var(normal({1, 1, 1, 5000}, 2))).value();
  for (const float v : z.to_vector()) square += double{v} * v;
  EXPECT_NEAR(square / 5000, 101, 3);
  EXPECT_EQ(training.spec()[0].values.to_vector(), channel_step(channel).values.to_vector());
}

TEST(MeanProtection, OfAChannelIsItsScaling) {
  const Channel channel = make_channel(40, 18, true);
  const ProtectionSpec spec{channel_step(channel)};
  const Tensor features = normal({4, 2, 3, 3}, 2);
  const Tensor mean = mean_protection(spec)(Var(features)).value();
  EXPECT_EQ(mean.to_vector(), channel_map(spec)(Var(features), nullptr).value().to_vector());
  for (int64_t i = 0; i < 4; ++i) {
    double square = 0, along = 0, own = 0;
    for (int64_t j = 0; j < 18; ++j) {
      const double mu = mean.data<float>()[i * 18 + j], u = features.data<float>()[i * 18 + j];
      square += mu * mu, along += mu * u, own += u * u;
    }
    EXPECT_NEAR(square, 18 * channel.power, 1e-3);
    EXPECT_NEAR(along, std::sqrt(square * own), 1e-3);
  }
  Rng noise(4);
  const auto first = channel_map(spec)(Var(features), &noise).value().to_vector();
  EXPECT_NE(first, channel_map(spec)(Var(features), &noise).value().to_vector());
  EXPECT_TRUE(draws_anew(spec));
  EXPECT_FALSE(channel_map({{"fresh_noise", number(1)}}));
}

TEST(FeatureTraining, ContinuesItsDrawsFromItsState) {
  const ProtectionSpec spec{{"dropout", number(0.3f)},
                            {"fresh_noise", number(1)},
                            channel_step(make_channel(9, 16, false))};
  const Var features(normal({2, 1, 4, 4}, 1));
  FeatureTraining whole(spec, 5), resumed(spec, 5), other(spec, 6);
  const Floats first = whole.forward(features).value().to_vector();
  const auto state = whole.state();
  std::vector<NamedTensor> kept;
  for (const NamedTensor& t : state) kept.push_back({t.name, t.tensor.clone()});
  const Floats second = whole.forward(features).value().to_vector();
  resumed.load_state(kept, "test");
  EXPECT_EQ(resumed.forward(features).value().to_vector(), second);
  EXPECT_NE(first, second);
  EXPECT_NE(other.forward(features).value().to_vector(), first);
}

// ---- the largest elements

TEST(Largest, KeepsTheLargestOfEachFeatureAndTheirGradients) {
  ProtectionConfig settings;
  settings.mutable_largest()->set_fraction(0.3);
  const ProtectionSpec spec{{"largest", largest_values(settings)}};
  const Tensor features = normal({3, 2, 5, 2}, 4);
  Tensor sent = features.clone();
  make_protection(spec)->apply(sent);
  for (int64_t image = 0; image < 3; ++image) {  // against a sort
    const Floats before = features.rows(image, 1).to_vector();
    Floats magnitudes, expected;
    for (float v : before) magnitudes.push_back(std::abs(v));
    std::ranges::sort(magnitudes, std::greater<>());
    for (float v : before) expected.push_back(std::abs(v) >= magnitudes[5] ? v : 0);  // 6 of 20
    EXPECT_EQ(sent.rows(image, 1).to_vector(), expected);
    EXPECT_EQ(std::ranges::count(expected, 0.0f), 14);
  }
  FeatureTraining training(spec, 1);
  const Var x(features, true);
  const Var y = training.forward(x);
  EXPECT_EQ(y.value().to_vector(), sent.to_vector());
  sum(affine(y, 3, 0)).backward();
  const Floats slope = x.grad().to_vector(), kept = sent.to_vector();
  for (size_t i = 0; i < slope.size(); ++i) EXPECT_EQ(slope[i], kept[i] != 0 ? 3 : 0) << i;
  EXPECT_TRUE(training.has_host_state()) << "a captured step would keep the same elements forever";
}

TEST(Largest, KeepsOneAtLeastAndTheFirstOfEqualOnes) {
  const auto sent = [](float fraction, const Floats& values) {
    Tensor features = Tensor::from(values, {1, static_cast<int64_t>(values.size())});
    make_protection({{"largest", Tensor::from({fraction}, {1})}})->apply(features);
    return features.to_vector();
  };
  EXPECT_EQ(sent(0.001f, {1, -3, 2}), (Floats{0, -3, 0}));
  EXPECT_EQ(sent(1, {1, -3, 2}), (Floats{1, -3, 2}));
  EXPECT_EQ(sent(0.5f, {2, -2, 2, 2}), (Floats{2, -2, 0, 0}));
  EXPECT_EQ(sent(0.5f, {0, 0, 0, 5}), (Floats{0, 0, 0, 5}));
  for (float fraction : {0.0f, -1.0f, 1.5f, NAN}) EXPECT_THROW(sent(fraction, {1, 2}), Error);
}

// ---- Shredder's bank

constexpr auto kAdditive = NoiseBankTraining::Form::kAdditive;

TEST(NoiseBankTraining, StartsLaplacianOfTheSizeAskedFor) {
  for (float unit : {1.0f, 20.0f}) {
    Rng rng(3);
    const NoiseBankTraining training(kAdditive, {4, 50, 50}, 3, 0.2f, unit, rng, 1);
    EXPECT_EQ(training.step().values.shape(), (Shape{3, 4, 50, 50}));
    double square = 0, size = 0;
    const Floats values = training.step().values.to_vector();
    for (float v : values) {
      square += double{v} * v / static_cast<double>(values.size());
      size += std::abs(v) / static_cast<double>(values.size());
    }
    EXPECT_NEAR(std::sqrt(square), 0.2, 0.006);
    EXPECT_NEAR(size / std::sqrt(square), std::sqrt(0.5), 0.015);  // Gaussian: 0.798
    EXPECT_NEAR(training.variance(), square, 1e-3 * square);
  }
  Rng rng(3);
  EXPECT_THROW(NoiseBankTraining(kAdditive, {1, 1, 1}, 1, 0, 1, rng, 1), Error);
}

TEST(NoiseBankTraining, AddsOneOfTheBankAndContinuesFromItsState) {
  Rng rng(4), again(4);
  NoiseBankTraining training(kAdditive, {1, 2, 2}, 3, 1, 2, rng, 7),
      resumed(kAdditive, {1, 2, 2}, 3, 1, 2, again, 7);
  const Tensor features = normal({60, 1, 2, 2}, 1);
  const Floats bank = training.step().values.to_vector(), x = features.to_vector();
  const Floats y = training.forward(Var(features)).value().to_vector();
  std::map<size_t, int> seen;
  for (size_t b = 0; b < 60; ++b) {
    for (size_t k = 0; k < 3; ++k) {
      bool all = true;
      for (size_t i = 0; i < 4; ++i) {
        all &= std::abs(y[b * 4 + i] - x[b * 4 + i] - bank[k * 4 + i]) < 1e-5f;
      }
      seen[k] += all;
    }
  }
  EXPECT_EQ(seen[0] + seen[1] + seen[2], 60);
  for (size_t k = 0; k < 3; ++k) EXPECT_GT(seen[k], 5);
  std::vector<NamedTensor> kept;
  for (const NamedTensor& t : training.state()) kept.push_back({t.name, t.tensor.clone()});
  resumed.load_state(kept, "test");
  EXPECT_EQ(resumed.forward(Var(features)).value().to_vector(),
            training.forward(Var(features)).value().to_vector());
}

// The multiplicative form: features times one plus one of the noises, in training as in use.
TEST(NoiseBankTraining, MultipliesByOneOfTheFactorsThatTheEdgeGets) {
  Rng rng(4);
  NoiseBankTraining training(NoiseBankTraining::Form::kMultiplicative, {1, 2, 2}, 3, 0.4f, 1, rng,
                             7);
  const Tensor features = normal({60, 1, 2, 2}, 1);
  const ProtectionStep step = training.step();
  EXPECT_EQ(step.name, "factor_bank");
  Tensor sent = features.clone();
  make_protection({step})->apply(sent);
  const Floats factors = step.values.to_vector(), x = features.to_vector();
  double mean = 0;
  for (float f : factors) mean += f / 12;
  EXPECT_NEAR(mean, 1, 0.4);
  for (const Floats& y : {training.forward(Var(features)).value().to_vector(), sent.to_vector()}) {
    std::map<size_t, int> seen;
    for (size_t b = 0; b < 60; ++b) {
      for (size_t k = 0; k < 3; ++k) {
        bool all = true;
        for (size_t i = 0; i < 4; ++i) {
          all &= std::abs(y[b * 4 + i] - x[b * 4 + i] * factors[k * 4 + i]) < 1e-5f;
        }
        seen[k] += all;
      }
    }
    EXPECT_EQ(seen[0] + seen[1] + seen[2], 60);
    for (size_t k = 0; k < 3; ++k) EXPECT_GT(seen[k], 5);
  }
}

TEST(NoiseBankTraining, SizeIsHalfTheMeanLogarithmOfTheVariance) {
  Rng rng(5);
  const float unit = 3;
  NoiseBankTraining training(kAdditive, {1, 2, 3}, 2, 0.7f, unit, rng, 1);
  const auto size = [&](const std::vector<Array>& scaled) {
    double total = 0;
    for (size_t k = 0; k < 2; ++k) {
      double mean = 0, square = 0;
      for (size_t i = 0; i < 6; ++i) {
        const double v = unit * scaled[0].v[k * 6 + i];
        mean += v / 6;
        square += v * v / 6;
      }
      total += 0.5 * std::log(square - mean * mean) / 2;
    }
    return total;
  };
  const Var scaled = training.parameters()[0].var;
  const Var value = training.size();
  EXPECT_NEAR(value.item(), size({Array(scaled.value())}), 1e-5);
  value.backward();
  EXPECT_TRUE(test::is_gradient(size, {Array(scaled.value())}, 0, Array(scaled.grad()),
                                {.tolerance = 1e-3}));
}

// ---- ResSFL's adversary

TEST(FeatureAdversary, SuccessIsTheSharePredictedAndItsGradientThatOfTheFeatures) {
  const Shape feature{3, 8, 8}, image{3, 16, 16};
  Tensor images = Tensor::empty({4, 3, 16, 16});
  Rng pixels(1);
  pixels.fill_uniform(images.span<float>(), 0, 1);
  const Tensor features = normal({4, 3, 8, 8}, 2);
  const double target = 0.5;  // above an untrained network's error, so that there is success
  // success() trains: every evaluation takes a new adversary that was born the same.
  const auto success = [&](const std::vector<Array>& x) {
    Rng rng(3);
    FeatureAdversary adversary(feature, image, target, rng);
    return double{adversary.success(Var(x[0].tensor()), Var(images)).item()};
  };
  Rng rng(3), twin_rng(3);
  FeatureAdversary adversary(feature, image, target, rng), twin(feature, image, target, twin_rng);
  const Var leaf(features, true);
  const Var value = adversary.success(leaf, Var(images));
  const double error = mse(twin.net().forward(Var(features)), Var(images)).item();
  ASSERT_LT(error, target);
  EXPECT_NEAR(value.item(), 1 - error / target, 1e-5);
  affine(value, 2, 0).backward();
  Array gradient(leaf.grad());
  for (double& g : gradient.v) g /= 2;
  EXPECT_TRUE(test::is_gradient(success, {Array(features)}, 0, gradient,
                                {.step = 8e-3, .tolerance = 5e-2, .elements = 6, .directions = 2}));
}

TEST(FeatureAdversary, LearnsAndKnowsNothingAtFirst) {
  const Shape feature{3, 16, 16};
  Tensor images = Tensor::empty({8, 3, 16, 16});
  Rng pixels(1);
  pixels.fill_uniform(images.span<float>(), 0, 1);
  Rng rng(3);
  FeatureAdversary adversary(feature, feature, 1.0 / 12, rng);  // a uniform number's variance
  const float first = adversary.success(Var(images), Var(images)).item();
  float last = 0;
  for (int i = 0; i < 60; ++i) last = adversary.success(Var(images), Var(images)).item();
  EXPECT_EQ(first, 0);
  EXPECT_GT(last, 0.2f);
}

}  // namespace
}  // namespace ens
