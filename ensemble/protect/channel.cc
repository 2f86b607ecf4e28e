// SPDX-License-Identifier: Apache-2.0
// The step `channel`. Values: [3], bits R, power P and 1 if the noise is keyed.
#include "ensemble/protect/channel.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "ensemble/protect/draws.h"
#include "ensemble/protect/step.h"

namespace ens {
namespace {

constexpr const char* kName = "channel";
constexpr int kMostSteps = 127;
// What is farther out is clipped: less than one element in a million of Gaussian features.
constexpr double kDeviations = 5;
constexpr double kLargestStep = 0.5;  // of int8, in deviations of the noise

double power_of(double bits, double elements) { return std::exp2(2 * bits / elements) - 1; }

double int8_step_of(double power) { return kDeviations * (std::sqrt(power) + 1) / kMostSteps; }

class ChannelStep : public FeatureStep {
 public:
  explicit ChannelStep(const Tensor& values) {
    const Tensor plain = finite_values(values, kName);
    const auto given = plain.span<float>();
    if (given.size() != 3 || !(given[0] > 0) || !(given[1] > 0) ||
        !(given[1] <= largest_channel_power() * 1.001) || (given[2] != 0 && given[2] != 1)) {
      usage_fail("the step 'channel' has an impossible value", "protection");
    }
    channel_ = {.bits = given[0],
                .power = given[1],
                .keyed = given[2] == 1,
                .int8_step = static_cast<float>(int8_step_of(given[1]))};
  }

  Form form() const override { return Form::kNormalise; }
  double power() const override { return channel_.power; }
  bool fits(const Shape& feature) const override { return fits(feature.numel()); }
  bool fits(int64_t elements) const {
    const double wanted = power_of(channel_.bits, static_cast<double>(elements));
    return std::abs(channel_.power - wanted) <= 1e-4 * wanted;
  }
  const Channel& channel() const { return channel_; }

  // Errors where a feature is no number, or its power too large after all.
  void apply(Tensor& features, Draws& draws) const override {
    const int64_t images = features.rank() > 0 ? features.dim(0) : 0;
    const int64_t size = features.numel() / std::max<int64_t>(images, 1);
    for (int64_t i = 0; i < images; ++i) {
      const std::span<float> feature(features.data<float>() + i * size, static_cast<size_t>(size));
      scale(feature);
      draws::add_normal(KeyStream(draws.seed(i)), feature);
      for (float& z : feature) z = rounded(z);
    }
  }

 private:
  void scale(std::span<float> feature) const {
    const double limit = static_cast<double>(feature.size()) * channel_.power;
    const auto square = [&] {
      double sum = 0;
      for (const float u : feature) sum += static_cast<double>(u) * u;
      return sum;
    };
    const double before = square();
    if (!std::isfinite(before)) {
      fail("the head's output is no number, and is not sent", kName, "train the bundle again");
    }
    const double factor = before > 0 ? std::sqrt(limit / before) : 0;
    for (float& u : feature) u = static_cast<float>(u * factor);
    if (!(square() <= limit * (1 + 1e-5))) {
      fail("a feature has more power than the channel allows, and is not sent", kName);
    }
  }

  float rounded(float z) const {
    constexpr auto kMost = static_cast<float>(kMostSteps);
    return channel_.int8_step * std::clamp(std::nearbyint(z / channel_.int8_step), -kMost, kMost);
  }

  Channel channel_;
};

}  // namespace

double largest_channel_power() {
  const double root = kLargestStep * kMostSteps / kDeviations - 1;
  return root * root;
}

double Channel::bits_of_sends(double m) const {
  return static_cast<double>(elements) / 2 * std::log2(1 + m * power);
}

Channel make_channel(double bits, int64_t elements, bool keyed) {
  const auto k = static_cast<double>(elements);
  const double power = power_of(bits, k);
  if (elements < 1 || !(bits > 0) || !(power <= largest_channel_power())) {
    const double bits_each = std::log2(1 + largest_channel_power()) / 2;
    const std::string most = std::to_string(static_cast<int64_t>(k * bits_each));
    usage_fail("int8 cannot carry " + std::to_string(static_cast<int64_t>(bits)) + " bits in " +
                   std::to_string(elements) + " elements",
               "protection.channel.bits", "use at most " + most + ", or send more elements");
  }
  return {bits, elements, power, keyed, static_cast<float>(int8_step_of(power))};
}

ProtectionStep channel_step(const Channel& channel) {
  return {kName, Tensor::from({static_cast<float>(channel.bits), static_cast<float>(channel.power),
                               channel.keyed ? 1.0f : 0.0f},
                              {3})};
}

std::optional<Channel> find_channel(const ProtectionSpec& spec, int64_t elements) {
  const Tensor* values = find_values(spec, kName);
  if (!values) return std::nullopt;
  const ChannelStep step(*values);
  Channel channel = step.channel();
  channel.elements = elements;
  return channel;
}

std::unique_ptr<FeatureStep> make_step_channel(const Tensor& values) {
  return std::make_unique<ChannelStep>(values);
}

}  // namespace ens
