#include "attacks/core/attack.h"
#include "attacks/split/alignment.h"
#include "attacks/split/enumerate.h"
#include "attacks/split/inverse.h"
#include "attacks/split/rmle.h"
#include "attacks/split/shadow.h"
#include "base/error.h"

namespace ens {
namespace {

struct Entry {
  const char* name;
  std::unique_ptr<Attack> (*make)();
};

constexpr Entry kAttacks[] = {
    {"shadow-n1", shadow_n1_attack},         {"shadow-adaptive", shadow_adaptive_attack},
    {"shadow-subset", shadow_subset_attack}, {"shadow-enumerate", shadow_enumerate_attack},
    {"rmle-white", rmle_white_attack},       {"rmle-shadow", rmle_shadow_attack},
    {"alignment", alignment_attack},         {"alignment-shadow", alignment_shadow_attack},
    {"known-pairs", known_pairs_attack},     {"oracle", oracle_attack},
};

}  // namespace

std::vector<std::string> attack_names() {
  std::vector<std::string> names;
  for (const Entry& e : kAttacks) names.emplace_back(e.name);
  return names;
}

std::unique_ptr<Attack> make_attack(const std::string& wanted) {
  std::string known;
  for (const Entry& e : kAttacks) {
    if (wanted == e.name) return e.make();
    known += (known.empty() ? "" : ", ") + std::string(e.name);
  }
  usage_fail("unknown attack '" + wanted + "'", "", "known attacks: " + known);
}

}  // namespace ens
