// SPDX-License-Identifier: Apache-2.0
// Adds N(0, sigma^2), independent for every element of every image. Values: [1], sigma.
#include <limits>

#include "ensemble/protect/draws.h"
#include "ensemble/protect/step.h"

namespace ens {
namespace {

class FreshNoise : public FeatureStep {
 public:
  explicit FreshNoise(const Tensor& values)
      : sigma_(one_value(values, "fresh_noise", 0, std::numeric_limits<float>::max())) {}
  Form form() const override { return Form::kAdd; }
  void apply(Tensor& features, Draws& draws) const override {
    draws::add_normal(draws.rng, features.span<float>(), sigma_);
  }

 private:
  float sigma_;
};

}  // namespace

std::unique_ptr<FeatureStep> make_step_fresh_noise(const Tensor& values) {
  return std::make_unique<FreshNoise>(values);
}

}  // namespace ens
