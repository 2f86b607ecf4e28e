// SPDX-License-Identifier: Apache-2.0
#include "attacks/disguise/registry.h"

#include "base/error.h"
#include "base/strings.h"

namespace ens {
namespace {

using Factory = std::unique_ptr<DisguiseAttack> (*)();

constexpr Factory kAttacks[] = {
#define ATTACK(name) disguise_##name##_attack,
#include "proto/disguise_attacks.inc"
#undef ATTACK
};

}  // namespace

std::vector<std::string> disguise_attack_names() {
  std::vector<std::string> names;
  for (const Factory make : kAttacks) names.push_back(make()->name());
  return names;
}

std::unique_ptr<DisguiseAttack> make_disguise_attack(const std::string& wanted) {
  for (const Factory make : kAttacks) {
    if (std::unique_ptr<DisguiseAttack> attack = make(); attack->name() == wanted) return attack;
  }
  usage_fail("unknown attack on disguised training '" + wanted + "'", "",
             "known attacks: " + join(disguise_attack_names()));
}

}  // namespace ens
