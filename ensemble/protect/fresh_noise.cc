#include <cmath>

#include "base/error.h"
#include "ensemble/protect/draws.h"
#include "ensemble/protect/protection.h"

namespace ens {
namespace {

class FreshNoise : public Protection {
 public:
  explicit FreshNoise(float sigma) : sigma_(sigma) {}

  void apply(Tensor& features) const override {
    Rng rng = draws::secret();
    draws::add_normal(rng, features.span<float>(), sigma_);
  }

 private:
  float sigma_;
};

}  // namespace

std::unique_ptr<Protection> fresh_noise(float sigma) {
  if (!(sigma >= 0) || !std::isfinite(sigma)) {
    usage_fail("the noise's standard deviation must be a number from 0", "fresh noise");
  }
  return std::make_unique<FreshNoise>(sigma);
}

}  // namespace ens
