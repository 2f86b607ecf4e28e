// SPDX-License-Identifier: Apache-2.0
// The attacks on split inference by name. proto/attacks.inc lists them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "attacks/split/grant.h"

namespace ens {

#define ATTACK(name) std::unique_ptr<SplitAttack> name##_attack();
#include "proto/attacks.inc"
#undef ATTACK

std::vector<std::string> attack_names();
// What runs where no attack is named: in tier `quick` without those that only `full` affords.
std::vector<std::string> default_attacks(const std::string& tier);
// Usage Error lists the known names.
std::unique_ptr<SplitAttack> make_attack(const std::string& name);

}  // namespace ens
