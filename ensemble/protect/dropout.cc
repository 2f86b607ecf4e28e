// SPDX-License-Identifier: Apache-2.0
// Sets each element to zero with probability p and scales the rest by 1/(1-p), anew for every
// image. Values: [1], p, at least 0 and below 1.
#include <cmath>

#include "ensemble/protect/draws.h"
#include "ensemble/protect/step.h"

namespace ens {
namespace {

class Dropout : public FeatureStep {
 public:
  explicit Dropout(const Tensor& values)
      : p_(one_value(values, "dropout", 0, std::nextafter(1.0f, 0.0f))) {}
  Form form() const override { return Form::kScale; }
  void apply(Tensor& features, Draws& draws) const override {
    draws::drop(draws.rng, features.span<float>(), p_);
  }

 private:
  float p_;
};

}  // namespace

std::unique_ptr<FeatureStep> make_step_dropout(const Tensor& values) {
  return std::make_unique<Dropout>(values);
}

}  // namespace ens
