// SPDX-License-Identifier: Apache-2.0
// e4m3 as a table of its 256 values, which Float8 is held against.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace ens::test {

inline double e4m3_value(int bits) {
  const int exponent = (bits >> 3) & 15, mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return NAN;
  const double size =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return bits & 128 ? -size : size;
}

// The bits of the nearest value; of two that are as near, of the one that ends in 0.
inline uint8_t e4m3_bits(double x) {
  int best = std::signbit(x) ? 128 : 0;
  if (std::isnan(x)) return static_cast<uint8_t>(best + 127);
  x = std::clamp(x, -448.0, 448.0);
  for (int bits = best, last = best + 126; bits <= last; ++bits) {
    const double distance = std::abs(x - e4m3_value(bits)), least = std::abs(x - e4m3_value(best));
    if (distance < least || (distance == least && bits % 2 == 0)) best = bits;
  }
  return static_cast<uint8_t>(best);
}

}  // namespace ens::test
