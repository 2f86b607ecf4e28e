// SPDX-License-Identifier: Apache-2.0
// dr_single's features before several bodies that are trained together.
#include "ensemble/train/protection_training.h"

namespace ens {

std::unique_ptr<ProtectionTraining> dr_ensemble_protection() { return dr_single_protection(); }

}  // namespace ens
