// Inverse network on true pairs (He et al., ACSAC 2019, section 4.3): a decoder trained on the
// client's own features. With unlimited queries it is the oracle: what leaks at the very most.
#pragma once

#include <memory>

#include "attacks/attack.h"

namespace ens {

std::unique_ptr<Attack> oracle_attack();

}  // namespace ens
