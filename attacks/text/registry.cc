// SPDX-License-Identifier: Apache-2.0
#include "attacks/text/registry.h"

#include "base/error.h"
#include "base/strings.h"

namespace ens {
namespace {

using Factory = std::unique_ptr<TextAttack> (*)();

constexpr Factory kAttacks[] = {
#define ATTACK(name) text_##name##_attack,
#include "proto/text_attacks.inc"
#undef ATTACK
};

}  // namespace

std::vector<std::string> text_attack_names() {
  std::vector<std::string> names;
  for (const Factory make : kAttacks) names.push_back(make()->name());
  return names;
}

std::unique_ptr<TextAttack> make_text_attack(const std::string& wanted) {
  for (const Factory make : kAttacks) {
    if (std::unique_ptr<TextAttack> attack = make(); attack->name() == wanted) return attack;
  }
  usage_fail("unknown attack on translation '" + wanted + "'", "",
             "known attacks: " + join(text_attack_names()));
}

}  // namespace ens
