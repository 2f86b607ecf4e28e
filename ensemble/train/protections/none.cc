// SPDX-License-Identifier: Apache-2.0
#include "ensemble/train/protection_training.h"

namespace ens {

std::unique_ptr<ProtectionTraining> none_protection() {
  return std::make_unique<ProtectionTraining>();
}

}  // namespace ens
