// SPDX-License-Identifier: Apache-2.0
#include "attacks/split/registry.h"

#include "base/error.h"
#include "base/strings.h"

namespace ens {
namespace {

using Factory = std::unique_ptr<SplitAttack> (*)();

constexpr Factory kAttacks[] = {
#define ATTACK(name) name##_attack,
#include "proto/attacks.inc"
#undef ATTACK
};

}  // namespace

std::vector<std::string> attack_names() {
  std::vector<std::string> names;
  for (const Factory make : kAttacks) names.push_back(make()->name());
  return names;
}

std::vector<std::string> default_attacks(const std::string& tier) {
  std::vector<std::string> names;
  for (const Factory make : kAttacks) {
    const auto attack = make();
    if (tier == "full" || !attack->only_in_full_tier()) names.push_back(attack->name());
  }
  return names;
}

std::unique_ptr<SplitAttack> make_attack(const std::string& wanted) {
  for (const Factory make : kAttacks) {
    if (std::unique_ptr<SplitAttack> attack = make(); attack->name() == wanted) return attack;
  }
  usage_fail("unknown attack '" + wanted + "'", "", "known attacks: " + join(attack_names()));
}

}  // namespace ens
