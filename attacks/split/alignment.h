// SPDX-License-Identifier: Apache-2.0
// Feature alignment, query-free (in the manner of FORA: "Feature-Oriented Reconstruction Attack",
// CVPR 2024): a substitute head is trained on public images until its features are distributed like
// those that the client sent; a decoder of the substitute's features then reads the client's.
//
// The distributions are compared by an adversarial critic, by moments and by the maximum mean
// discrepancy (Gretton et al., JMLR 2012). That needs neither the selector nor the server nets.
// Distributions leave symmetries of the images open (the negative, above all); the server nets
// settle them without the truth: they classify what was read aright best.
#pragma once

#include <memory>

#include "attacks/core/distribution.h"
#include "attacks/split/views.h"

namespace ens {

// The distribution alone, or with the shadow's cross-entropy.
std::unique_ptr<SplitAttack> alignment_attack(bool with_shadow);

}  // namespace ens
