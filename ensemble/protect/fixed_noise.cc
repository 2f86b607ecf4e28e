#include "base/error.h"
#include "ensemble/protect/protection.h"

namespace ens {
namespace {

class FixedNoise : public Protection {
 public:
  explicit FixedNoise(Tensor noise) : noise_(std::move(noise)) {}

  void apply(Tensor& features) const override {
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

std::unique_ptr<Protection> fixed_noise(Tensor noise) {
  return std::make_unique<FixedNoise>(noise.to(Dtype::kF32).plain());
}

}  // namespace ens
