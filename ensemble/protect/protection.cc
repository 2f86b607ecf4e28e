#include "ensemble/protect/protection.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"

namespace ens {
namespace {

class Chain : public Protection {
 public:
  explicit Chain(std::vector<std::unique_ptr<Protection>> parts) : parts_(std::move(parts)) {}

  void apply(Tensor& features) const override {
    for (const auto& part : parts_) part->apply(features);
  }

 private:
  std::vector<std::unique_ptr<Protection>> parts_;
};

}  // namespace

std::unique_ptr<Protection> make_protection(const ProtectionSpec& spec) {
  std::vector<std::unique_ptr<Protection>> parts;
  if (spec.dropout != 0) parts.push_back(dropout_features(spec.dropout));
  if (spec.noise.defined()) {
    parts.push_back(spec.has_bank() ? noise_bank(spec.noise) : fixed_noise(spec.noise));
  }
  if (spec.fresh_sigma != 0) parts.push_back(fresh_noise(spec.fresh_sigma));
  return std::make_unique<Chain>(std::move(parts));
}

void check(const ProtectionSpec& spec, const Shape& feature) {
  const auto require = [](bool ok, const char* problem) {
    if (!ok) usage_fail(problem, "protection");
  };
  require(spec.dropout >= 0 && spec.dropout < 1, "the dropout is not a fraction");
  require(spec.fresh_sigma >= 0 && std::isfinite(spec.fresh_sigma),
          "the fresh noise's standard deviation is impossible");
  if (!spec.noise.defined()) return;
  require(spec.noise.dtype() == Dtype::kF32, "the noise is not float32");
  const auto dims = spec.noise.shape().dims();
  const bool bank = dims.size() == feature.dims().size() + 1;
  require(std::ranges::equal(bank ? dims.subspan(1) : dims, feature.dims()) &&
              (!bank || dims[0] > 0) && bank == spec.has_bank(),
          "the noise does not fit the head's output");
  const Tensor noise = spec.noise.to(Device{}).plain();
  require(std::ranges::all_of(noise.span<float>(), [](float v) { return std::isfinite(v); }),
          "the noise holds something that is no number");
}

Tensor mean_noise(const ProtectionSpec& spec) {
  if (!spec.has_bank()) return spec.noise;
  const Tensor bank = spec.noise.plain();
  const int64_t count = bank.dim(0), size = bank.numel() / count;
  std::vector<double> sums(static_cast<size_t>(size));
  for (int64_t k = 0; k < count; ++k) {
    const float* noise = bank.data<float>() + k * size;
    for (int64_t i = 0; i < size; ++i) sums[static_cast<size_t>(i)] += noise[i];
  }
  Tensor mean = Tensor::empty(Shape(bank.shape().dims().subspan(1)));
  std::ranges::transform(sums, mean.data<float>(), [count](double sum) {
    return static_cast<float>(sum / static_cast<double>(count));
  });
  return mean;
}

}  // namespace ens
