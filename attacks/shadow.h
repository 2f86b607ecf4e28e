// Shadow network + decoder, query-free (arXiv 2401.10859, section 4; He et al., ACSAC 2019).
//
// A shadow head is trained, on the attacker's data, to feed the client's frozen server nets so that
// a shadow tail classifies well: its features should then resemble the client's. A decoder trained
// on shadow features is applied to what the client sent.
#pragma once

#include <memory>

#include "attacks/attack.h"

namespace ens {

// One shadow per server net; N reconstructions.
std::unique_ptr<Attack> shadow_n1_attack();
// All server nets at once, weighted by a trainable selector.
std::unique_ptr<Attack> shadow_adaptive_attack();

}  // namespace ens
