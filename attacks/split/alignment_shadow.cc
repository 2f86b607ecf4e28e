// SPDX-License-Identifier: Apache-2.0
// Feature alignment with the cross-entropy of the substitute through the server nets as a further
// term.
#include "attacks/split/alignment.h"
#include "attacks/split/registry.h"

namespace ens {

std::unique_ptr<SplitAttack> alignment_shadow_attack() { return alignment_attack(true); }

}  // namespace ens
