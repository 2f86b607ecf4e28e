// SPDX-License-Identifier: Apache-2.0
// The attacks on split translations by name. proto/text_attacks.inc lists them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "attacks/text/grant.h"

namespace ens {

#define ATTACK(name) std::unique_ptr<TextAttack> text_##name##_attack();
#include "proto/text_attacks.inc"
#undef ATTACK

std::vector<std::string> text_attack_names();
// Usage Error lists the known names.
std::unique_ptr<TextAttack> make_text_attack(const std::string& name);

}  // namespace ens
