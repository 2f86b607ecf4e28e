// SPDX-License-Identifier: Apache-2.0
// Who may know what of a split translation: the only place where an attacker's view is filled.
// tests/attacks/text/grant_test.cc lists the grants of every attack.
#pragma once

#include <vector>

#include "attacks/text/views.h"

namespace ens {

// Fills in exactly the members of the view.
void grant(const TextVictim& victim, const AttackContext& context, ObservedTextView& view);
void grant(const TextVictim& victim, const AttackContext& context, TextPairsView& view);
void grant(const TextVictim& victim, const AttackContext& context, AnyTextPairsView& view);
void grant(const TextVictim& victim, const AttackContext& context, EmbeddingView& view);

// For which numbers of sentences the attacks on pairs are run: attack.known_pairs.counts, or else
// 1, 10, 100 and 1,000; at most `available`, ascending, each once.
std::vector<int64_t> text_pair_counts(const AttackConfig& settings, int64_t available);

}  // namespace ens
