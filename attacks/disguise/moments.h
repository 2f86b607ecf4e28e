// SPDX-License-Identifier: Apache-2.0
// The key of `rmt` from public images and disguised rows alone: what `moments` finds, for the
// attacks that go on from there.
#pragma once

#include <string>
#include <vector>

#include "attacks/disguise/block_inverse.h"
#include "attacks/disguise/views.h"

namespace ens {

struct MomentsEstimate {
  BlockInverse inverse;
  // How far mean and deviation of the rebuilt images are from the public ones', the attacker's own
  // criterion: less is better.
  double misfit = 0;
};

// "" or why moments cannot tell anything.
std::string no_moments_reason(const DisguiseSetting& setting);
// The least misfit first. One; of blocks that changed places several, since moments hardly tell a
// layout from its mirror image. Usage Error where there are fewer images than blocks ask for.
std::vector<MomentsEstimate> estimates_by_moments(const PublicView& view,
                                                  const AttackContext& context);
// The queries by each of the estimates.
std::vector<Reconstruction> rebuilt_by_moments(const PublicView& view,
                                               const std::vector<MomentsEstimate>& estimates);

}  // namespace ens
