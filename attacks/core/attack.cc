#include "attacks/core/attack.h"

namespace ens {

const char* name(KnowledgeLevel level) {
  switch (level) {
    case KnowledgeLevel::kQueryFree:
      return "query-free";
    case KnowledgeLevel::kKnownPairs:
      return "known pairs";
    case KnowledgeLevel::kBlackBox:
      return "black box";
    case KnowledgeLevel::kWhiteBox:
      return "white box";
  }
  return "";
}

}  // namespace ens
