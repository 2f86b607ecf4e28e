// SPDX-License-Identifier: Apache-2.0
// Keeps the largest elements of each feature by magnitude and sets the others to zero. Values: [1],
// the fraction that is kept, above 0 and at most 1; one element at least, and of equal magnitudes
// the first.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "base/error.h"
#include "ensemble/protect/step.h"
#include "proto/config.pb.h"

namespace ens {
namespace {

// What is not a number is kept, so that it is seen and not hidden.
float magnitude(float value) { return std::isnan(value) ? INFINITY : std::abs(value); }

class Largest : public FeatureStep {
 public:
  explicit Largest(const Tensor& values)
      : fraction_(one_value(values, "largest", std::numeric_limits<float>::min(), 1)) {}
  Form form() const override { return Form::kSelect; }

  void apply(Tensor& features, Draws&) const override {
    if (features.rank() < 2) fail("no batch of features: " + features.shape().str(), "largest");
    const int64_t size = features.numel() / std::max<int64_t>(features.dim(0), 1);
    const int64_t kept = std::max<int64_t>(std::llround(fraction_ * static_cast<double>(size)), 1);
    std::vector<float> magnitudes(static_cast<size_t>(size));
    for (int64_t image = 0; image < features.dim(0); ++image) {
      const std::span<float> feature(features.data<float>() + image * size, magnitudes.size());
      std::ranges::transform(feature, magnitudes.begin(), magnitude);
      std::ranges::nth_element(magnitudes, magnitudes.begin() + (kept - 1), std::greater<>());
      const float least = magnitudes[static_cast<size_t>(kept - 1)];
      int64_t equal = kept - std::ranges::count_if(
                                 feature, [&](float value) { return magnitude(value) > least; });
      for (float& value : feature) {
        const bool keep = magnitude(value) > least || (magnitude(value) == least && equal-- > 0);
        if (!keep) value = 0;
      }
    }
  }

 private:
  const float fraction_;
};

}  // namespace

std::unique_ptr<FeatureStep> make_step_largest(const Tensor& values) {
  return std::make_unique<Largest>(values);
}

Tensor largest_values(const ProtectionConfig& settings) {
  return Tensor::from({static_cast<float>(settings.largest().fraction())}, {1});
}

}  // namespace ens
