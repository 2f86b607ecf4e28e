// SPDX-License-Identifier: Apache-2.0
// Adds one of several noises, each equally likely, to each image's feature.
#include "ensemble/protect/bank.h"

namespace ens {

std::unique_ptr<FeatureStep> make_step_noise_bank(const Tensor& values) {
  return std::make_unique<Bank>(values, "noise_bank", FeatureStep::Form::kAdd);
}

}  // namespace ens
