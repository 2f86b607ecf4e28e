// SPDX-License-Identifier: Apache-2.0
// The attacks on disguised training by name. proto/disguise_attacks.inc lists them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "attacks/disguise/grant.h"

namespace ens {

#define ATTACK(name) std::unique_ptr<DisguiseAttack> disguise_##name##_attack();
#include "proto/disguise_attacks.inc"
#undef ATTACK

std::vector<std::string> disguise_attack_names();
// Usage Error lists the known names.
std::unique_ptr<DisguiseAttack> make_disguise_attack(const std::string& name);

}  // namespace ens
