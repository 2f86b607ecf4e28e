// SPDX-License-Identifier: Apache-2.0
// Adds the same secret noise to every feature (arXiv 2401.10859, eq. 2). Values: the noise, of a
// feature's shape.
#include "base/error.h"
#include "ensemble/protect/step.h"

namespace ens {
namespace {

class FixedNoise : public FeatureStep {
 public:
  explicit FixedNoise(const Tensor& values) : noise_(finite_values(values, "fixed_noise")) {}
  Form form() const override { return Form::kAddConstant; }
  bool fits(const Shape& feature) const override { return noise_.shape() == feature; }

  void apply(Tensor& features, Draws&) const override {
    const int64_t size = noise_.numel();
    if (features.rank() < 1 || features.numel() != features.dim(0) * size) {
      fail("features " + features.shape().str() + " do not fit noise " + noise_.shape().str(),
           "fixed noise");
    }
    float* feature = features.data<float>();
    const float* noise = noise_.data<float>();
    for (int64_t b = 0; b < features.dim(0); ++b, feature += size) {
      for (int64_t i = 0; i < size; ++i) feature[i] += noise[i];
    }
  }

 private:
  Tensor noise_;
};

}  // namespace

std::unique_ptr<FeatureStep> make_step_fixed_noise(const Tensor& values) {
  return std::make_unique<FixedNoise>(values);
}

}  // namespace ens
