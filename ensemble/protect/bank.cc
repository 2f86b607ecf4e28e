// SPDX-License-Identifier: Apache-2.0
#include "ensemble/protect/bank.h"

#include <algorithm>

#include "base/error.h"
#include "ensemble/protect/draws.h"

namespace ens {

Bank::Bank(const Tensor& values, const char* step, Form form)
    : bank_(finite_values(values, step)), form_(form) {
  if (bank_.rank() < 2 || bank_.dim(0) < 1) {
    usage_fail("the bank of the step '" + std::string(step) + "' is empty", "protection");
  }
}

bool Bank::fits(const Shape& feature) const {
  return std::ranges::equal(bank_.shape().dims().subspan(1), feature.dims());
}

void Bank::apply(Tensor& features, Draws& draws) const {
  const int64_t count = bank_.dim(0), size = bank_.numel() / count;
  if (features.rank() < 1 || features.numel() != features.dim(0) * size) {
    fail("features " + features.shape().str() + " do not fit a bank of " + bank_.shape().str(),
         "protection");
  }
  float* feature = features.data<float>();
  for (int64_t b = 0; b < features.dim(0); ++b, feature += size) {
    const auto drawn = static_cast<int64_t>(draws.rng.below(static_cast<uint64_t>(count)));
    const float* values = bank_.data<float>() + drawn * size;
    for (int64_t i = 0; i < size; ++i) {
      feature[i] = form_ == Form::kAdd ? feature[i] + values[i] : feature[i] * values[i];
    }
  }
}

}  // namespace ens
