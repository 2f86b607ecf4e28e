// SPDX-License-Identifier: Apache-2.0
#include "attacks/text/grant.h"

#include <array>

#include "attacks/core/pair_counts.h"

namespace ens {

void grant(const TextVictim& victim, const AttackContext&, ObservedTextView& view) {
  view.observed = victim.observed;
  view.scored = victim.scored;
  view.public_text = victim.public_text;
}

void grant(const TextVictim& victim, const AttackContext& context, TextPairsView& view) {
  grant(victim, context, static_cast<ObservedTextView&>(view));
  const auto counts = text_pair_counts(context.settings, std::ssize(victim.public_text));
  if (!counts.empty()) view.pairs = victim.send(0, counts.back());
}

void grant(const TextVictim& victim, const AttackContext& context, AnyTextPairsView& view) {
  grant(victim, context, static_cast<ObservedTextView&>(view));
  view.send = victim.send;
}

void grant(const TextVictim& victim, const AttackContext& context, EmbeddingView& view) {
  grant(victim, context, static_cast<ObservedTextView&>(view));
  view.table = victim.table;
  view.words = victim.words;
}

std::vector<int64_t> text_pair_counts(const AttackConfig& settings, int64_t available) {
  constexpr std::array<int64_t, 4> kDefault = {1, 10, 100, 1000};
  return pair_counts(settings, available, kDefault);
}

}  // namespace ens
