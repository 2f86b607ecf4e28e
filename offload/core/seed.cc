// SPDX-License-Identifier: Apache-2.0
#include "offload/core/seed.h"

#include <array>
#include <bit>

namespace ens {

void expand_seed(const Seed& seed, const Field& field, std::span<uint32_t> out) {
  KeyStream stream(seed);
  const uint32_t mask = std::bit_ceil(field.prime()) - 1;
  std::array<uint8_t, 8192> bytes;
  size_t at = bytes.size();
  for (uint32_t& element : out) {
    do {
      if (at == bytes.size()) {
        stream.fill(bytes);
        at = 0;
      }
      const uint8_t* b = &bytes[at];
      element =
          (uint32_t{b[0]} | uint32_t{b[1]} << 8 | uint32_t{b[2]} << 16 | uint32_t{b[3]} << 24) &
          mask;
      at += 4;
    } while (element >= field.prime());
  }
}

}  // namespace ens
