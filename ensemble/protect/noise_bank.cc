#include "base/error.h"
#include "ensemble/protect/draws.h"
#include "ensemble/protect/protection.h"

namespace ens {
namespace {

class NoiseBank : public Protection {
 public:
  explicit NoiseBank(Tensor bank) : bank_(std::move(bank)) {}

  void apply(Tensor& features) const override {
    const int64_t count = bank_.dim(0), size = bank_.numel() / count;
    if (features.rank() < 1 || features.numel() != features.dim(0) * size) {
      fail("features " + features.shape().str() + " do not fit a bank of noises " +
               bank_.shape().str(),
           "noise bank");
    }
    Rng rng = draws::secret();
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

std::unique_ptr<Protection> noise_bank(Tensor bank) {
  if (bank.rank() < 2 || bank.dim(0) < 1) usage_fail("a noise bank needs noises", "noise bank");
  return std::make_unique<NoiseBank>(bank.to(Dtype::kF32).plain());
}

}  // namespace ens
