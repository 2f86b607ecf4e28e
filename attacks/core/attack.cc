#include "attacks/core/attack.h"

#include "proto/config.h"

namespace ens {

AttackContext::AttackContext() {
  RunConfig defaults;
  complete(defaults);
  settings = defaults.attack();
}

const char* name(KnowledgeLevel level) {
  constexpr const char* kNames[] = {"blind", "query-free", "known pairs", "black box", "white box"};
  return kNames[static_cast<size_t>(level)];
}

}  // namespace ens
