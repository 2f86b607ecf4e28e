// SPDX-License-Identifier: Apache-2.0
#include "ensemble/protect/noise_bank_train.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "ensemble/protect/feature_train.h"
#include "nn/autograd/ops.h"

namespace ens {

NoiseBankTraining::NoiseBankTraining(Form form, const Shape& feature, int count, float sigma,
                                     float unit, Rng& rng, uint64_t key)
    : form_(form), feature_(feature), unit_(unit), key_(key) {
  if (!(sigma > 0)) {
    usage_fail("the noises need a size to start from", "ensemble.sigma", "use more than 0");
  }
  Tensor start = Tensor::empty({count, feature.numel()});
  const double scale = sigma / std::sqrt(2.0);  // a Laplace distribution's variance is 2 scale^2
  for (float& value : start.span<float>()) {
    const double u = rng.uniform() - 0.5;
    const double size = -scale * std::log1p(-2 * std::min(std::abs(u), 0.5 - 0x1p-54));
    value = static_cast<float>(std::copysign(size, u)) / unit;
  }
  scaled_ = add_parameter("noises", std::move(start));
  add_host_counter("calls", calls_);
}

Var NoiseBankTraining::noises() const { return affine(scaled_, unit_, 0); }

Var NoiseBankTraining::forward(const Var& features) {
  const int64_t batch = features.dim(0), count = scaled_.dim(0);
  Rng rng = next_stream(key_, calls_);
  Tensor chosen = Tensor::zeros({batch, count});  // one 1 a row
  for (int64_t b = 0; b < batch; ++b) {
    const auto k = static_cast<int64_t>(rng.below(static_cast<uint64_t>(count)));
    chosen.data<float>()[b * count + k] = 1;
  }
  const Var each = matmul(Var(chosen.to(scaled_.value().device())), noises());
  const Var noise = cast(reshape(each, features.shape()), features.value().dtype());
  return ens::add(features, form_ == Form::kAdditive ? noise : mul(features, noise));
}

Var NoiseBankTraining::size() const {
  const Var n = noises();
  const Shape rows{n.dim(0), 1};
  const Var variance = mean_to(square(sub(n, mean_to(n, rows))), rows);
  return affine(mean(log(affine(variance, 1, 1e-20f))), 0.5f, 0);
}

ProtectionStep NoiseBankTraining::step() const {
  const NoGrad no_grad;
  const bool adds = form_ == Form::kAdditive;
  const Tensor values = affine(noises(), 1, adds ? 0.0f : 1.0f).value().to(Device{}).plain();
  return {adds ? "noise_bank" : "factor_bank", values.reshape(batched(scaled_.dim(0), feature_))};
}

double NoiseBankTraining::variance() const {
  const NoGrad no_grad;
  const Var n = noises();
  return mean(square(sub(n, mean_to(n, {n.dim(0), 1})))).item();
}

}  // namespace ens
