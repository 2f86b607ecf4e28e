#include "base/error.h"
#include "ensemble/protect/draws.h"
#include "ensemble/protect/protection.h"

namespace ens {
namespace {

class Dropping : public Protection {
 public:
  explicit Dropping(float p) : p_(p) {}

  void apply(Tensor& features) const override {
    Rng rng = draws::secret();
    draws::drop(rng, features.span<float>(), p_);
  }

 private:
  float p_;
};

}  // namespace

std::unique_ptr<Protection> dropout_features(float p) {
  if (!(p >= 0 && p < 1)) usage_fail("dropout must be at least 0 and below 1", "dropout");
  return std::make_unique<Dropping>(p);
}

}  // namespace ens
