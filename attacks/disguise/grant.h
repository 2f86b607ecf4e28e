// SPDX-License-Identifier: Apache-2.0
// Who may know what of a disguised training: the only place where an attacker's view is filled.
// tests/attacks/disguise/grant_test.cc lists the grants of every attack.
#pragma once

#include <vector>

#include "attacks/disguise/views.h"

namespace ens {

// Fills in exactly the members of the view.
void grant(const DisguiseVictim& victim, const AttackContext& context, DisguisedView& view);
void grant(const DisguiseVictim& victim, const AttackContext& context, PublicView& view);
void grant(const DisguiseVictim& victim, const AttackContext& context, PrivateImagesView& view);
void grant(const DisguiseVictim& victim, const AttackContext& context, ModelView& view);
void grant(const DisguiseVictim& victim, const AttackContext& context, MembershipView& view);
// As many pairs as the last of disguised_pair_counts(), of the first public images.
void grant(const DisguiseVictim& victim, const AttackContext& context, DisguisedPairsView& view);
void grant(const DisguiseVictim& victim, const AttackContext& context, AnyPairsView& view);

// For which numbers of pairs the attacks on pairs are run: attack.known_pairs.counts, or else
// 1, 2, 3, 5, 10, 50, 100 and 1000; at most `available`, ascending, each once.
std::vector<int64_t> disguised_pair_counts(const AttackConfig& settings, int64_t available);

}  // namespace ens
