// Adds one of several noises, each equally likely, to each image's feature (Shredder, ASPLOS 2020).
// Values: the noises, of a feature's shape with one axis more in front.
#include <algorithm>

#include "base/error.h"
#include "ensemble/protect/step.h"

namespace ens {
namespace {

class NoiseBank : public FeatureStep {
 public:
  explicit NoiseBank(const Tensor& values) : bank_(finite_values(values, "noise_bank")) {
    if (bank_.rank() < 2 || bank_.dim(0) < 1) usage_fail("a noise bank needs noises", "protection");
  }
  Form form() const override { return Form::kAdd; }
  bool fits(const Shape& feature) const override {
    return std::ranges::equal(bank_.shape().dims().subspan(1), feature.dims());
  }

  void apply(Tensor& features, Rng& rng) const override {
    const int64_t count = bank_.dim(0), size = bank_.numel() / count;
    if (features.rank() < 1 || features.numel() != features.dim(0) * size) {
      fail("features " + features.shape().str() + " do not fit a bank of noises " +
               bank_.shape().str(),
           "noise bank");
    }
    float* feature = features.data<float>();
    for (int64_t b = 0; b < features.dim(0); ++b, feature += size) {
      const auto drawn = static_cast<int64_t>(rng.below(static_cast<uint64_t>(count)));
      const float* noise = bank_.data<float>() + drawn * size;
      for (int64_t i = 0; i < size; ++i) feature[i] += noise[i];
    }
  }

 private:
  Tensor bank_;
};

}  // namespace

std::unique_ptr<FeatureStep> make_step_noise_bank(const Tensor& values) {
  return std::make_unique<NoiseBank>(values);
}

}  // namespace ens
