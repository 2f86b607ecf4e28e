// SPDX-License-Identifier: Apache-2.0
// Dtypes of tensors, and the floating point formats that C++ does not have.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

namespace ens {

enum class Dtype : uint8_t { kF32, kBF16, kF16, kF8, kU8, kI8, kI32 };

size_t size_of(Dtype dtype);               // bytes of one element
const char* name(Dtype dtype);             // "float32", "bfloat16", "float16", "float8", ...
Dtype parse_dtype(std::string_view text);  // inverse of name(); usage Error if unknown

// bfloat16: the upper half of a float32. Round to nearest even; NaN stays NaN.
struct BFloat16 {
  uint16_t bits = 0;
  BFloat16() = default;
  explicit BFloat16(float value) {
    uint32_t u = std::bit_cast<uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = static_cast<uint16_t>((u >> 16) | 0x40);  // quiet NaN
    } else {
      bits = static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
    }
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
};

// IEEE 754 binary16, used on the wire. Round to nearest even; overflow becomes infinity.
struct Float16 {
  uint16_t bits = 0;
  Float16() = default;
  explicit Float16(float value);
  explicit operator float() const;
};

// e4m3: 4 bits of exponent, 3 of mantissa, no infinity; 2^-9 to 448 (OCP 8-bit floating point
// specification). Round to nearest even; what is larger becomes 448, NaN stays NaN.
struct Float8 {
  static constexpr float kMax = 448.0f;
  uint8_t bits = 0;
  Float8() = default;
  explicit Float8(float value);
  explicit operator float() const;
};

// The C++ type of a Dtype as a compile-time map: dtype_of<float>() == kF32.
template <typename T>
constexpr Dtype dtype_of() {
  if constexpr (std::is_same_v<T, float>) return Dtype::kF32;
  if constexpr (std::is_same_v<T, BFloat16>) return Dtype::kBF16;
  if constexpr (std::is_same_v<T, Float16>) return Dtype::kF16;
  if constexpr (std::is_same_v<T, Float8>) return Dtype::kF8;
  if constexpr (std::is_same_v<T, uint8_t>) return Dtype::kU8;
  if constexpr (std::is_same_v<T, int8_t>) return Dtype::kI8;
  if constexpr (std::is_same_v<T, int32_t>) return Dtype::kI32;
}

}  // namespace ens
