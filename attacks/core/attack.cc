// SPDX-License-Identifier: Apache-2.0
#include "attacks/core/attack.h"

#include "proto/config.h"

namespace ens {

AttackContext::AttackContext() {
  RunConfig defaults;
  complete(defaults);
  settings = defaults.attack();
}

int seeds_of(const Attack& attack, const AttackConfig& settings) {
  if (attack.level() == KnowledgeLevel::kBlind) return 1;
  if (attack.trains_through_bodies() && settings.shadow().seeds() > 0) {
    return settings.shadow().seeds();
  }
  if (settings.seeds() > 0) return settings.seeds();
  return attack.trains_through_bodies() ? 5 : 1;
}

const char* name(KnowledgeLevel level) {
  constexpr const char* kNames[] = {
      "blind",     "query-free", "known pairs", "black box", "repeated sends",
      "white box", "L0",         "L1",          "L1x",       "L2",
      "oracle"};
  return kNames[static_cast<size_t>(level)];
}

}  // namespace ens
