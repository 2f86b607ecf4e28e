// SPDX-License-Identifier: Apache-2.0
#include "nn/core/dtype.h"

#include "base/error.h"

namespace ens {

size_t size_of(Dtype dtype) {
  constexpr size_t kBytes[] = {4, 2, 2, 1, 1, 1, 4};
  return kBytes[static_cast<size_t>(dtype)];
}

const char* name(Dtype dtype) {
  constexpr const char* kNames[] = {"float32", "bfloat16", "float16", "float8",
                                    "uint8",   "int8",     "int32"};
  return kNames[static_cast<size_t>(dtype)];
}

Dtype parse_dtype(std::string_view text) {
  for (Dtype d :
       {Dtype::kF32, Dtype::kBF16, Dtype::kF16, Dtype::kF8, Dtype::kU8, Dtype::kI8, Dtype::kI32}) {
    if (text == name(d)) return d;
  }
  usage_fail("unknown dtype '" + std::string(text) + "'", "", "use float32, bfloat16 or float16");
}

Float16::Float16(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {  // NaN
    bits = sign | 0x7e00u;
  } else if (magnitude >= 0x47800000u) {  // 65536 and above: overflow
    bits = sign | 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: subnormal or zero
    // Adding 0.5 aligns the result's bits at the bottom of the float, with correct rounding.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    bits = sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(shifted) - 0x3f000000u);
  } else {
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23);
    bits = sign | static_cast<uint16_t>(rounded >> 13);  // may carry into infinity: correct
  }
}

Float16::operator float() const {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -value : value;
  }
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

Float8::Float8(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint8_t sign = static_cast<uint8_t>((u >> 24) & 0x80u);
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {  // NaN
    bits = sign | 0x7fu;
  } else if (magnitude >= 0x43e00000u) {  // 448 and above
    bits = sign | 0x7eu;
  } else if (magnitude < 0x3c800000u) {  // below 2^-6: subnormal or zero
    // Adding 2^14 aligns the result's bits at the bottom of the float, with correct rounding.
    const float shifted = std::bit_cast<float>(magnitude) + 0x1p14f;
    bits = sign | static_cast<uint8_t>(std::bit_cast<uint32_t>(shifted) - 0x46800000u);
  } else {
    const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u) - (120u << 23);
    bits = sign | static_cast<uint8_t>(rounded >> 20);  // at most 448: larger ones do not get here
  }
}

Float8::operator float() const {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80u) << 24;
  const uint32_t exponent = (bits >> 3) & 0xfu, mantissa = bits & 7u;
  if ((bits & 0x7fu) == 0x7fu) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (exponent == 0) {
    const float value = static_cast<float>(mantissa) * 0x1p-9f;
    return sign ? -value : value;
  }
  return std::bit_cast<float>(sign | ((exponent + 120u) << 23) | (mantissa << 20));
}

}  // namespace ens
