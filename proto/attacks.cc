// SPDX-License-Identifier: Apache-2.0
#include "proto/attacks.h"

#include <algorithm>
#include <string_view>

namespace ens {

size_t attack_rank(const std::string& name) {
  static constexpr std::string_view kAttacks[] = {
#define ATTACK(name) #name,
#include "proto/attacks.inc"
#undef ATTACK
  };
  std::string identifier = name;
  std::ranges::replace(identifier, '-', '_');
  const auto floor = std::end(kAttacks) - 1;
  if (identifier == *floor) return std::size(kAttacks);
  return static_cast<size_t>(std::find(std::begin(kAttacks), floor, identifier) - kAttacks);
}

}  // namespace ens
