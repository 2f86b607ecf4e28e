// SPDX-License-Identifier: Apache-2.0
// Multiplies each image's feature, element by element, by one of several factors, each equally
// likely.
#include "ensemble/protect/bank.h"

namespace ens {

std::unique_ptr<FeatureStep> make_step_factor_bank(const Tensor& values) {
  return std::make_unique<Bank>(values, "factor_bank", FeatureStep::Form::kScale);
}

}  // namespace ens
