// SPDX-License-Identifier: Apache-2.0
// Field: integers modulo a prime p < 2^31, and how their elements travel.
//
// An element is kept as its residue in [0, p). For an exact product with int8 weights on int8 units
// it is cut into signed digits: the representative of the residue that is nearest to 0, or within a
// digit of it, is sum_l 256^l d_l with every d_l in [-128, 127]. Plane l holds the digits d_l of a
// whole tensor, so W x = sum_l 256^l (W d_l) mod p takes one int8 product for each plane,
// accumulated in int32, which is exact for up to kMaxTermsI8 terms (nn/core/int8_product.h). Planes
// are also what travels: nothing is packed on either side. Read offload/core/coding.h next.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "nn/core/int8_layer.h"
#include "nn/core/tensor.h"

namespace ens {

class Field {
 public:
  // 2 < prime < 2^31; whether it is prime is not checked. Usage Error outside that range.
  explicit Field(uint32_t prime);
  // "m31": 2^31 - 1, four planes. "p24": 2^24 - 3, three planes, a quarter fewer bytes. Usage Error
  // for another name.
  static Field named(const std::string& name);

  uint32_t prime() const { return prime_; }
  int planes() const { return planes_; }  // bytes of an element

  uint32_t reduce(uint64_t value) const { return static_cast<uint32_t>(value % prime_); }
  uint32_t of(int64_t value) const {
    const int64_t r = value % int64_t{prime_};
    return static_cast<uint32_t>(r < 0 ? r + prime_ : r);
  }
  uint32_t add(uint32_t a, uint32_t b) const { return reduce(uint64_t{a} + b); }
  uint32_t sub(uint32_t a, uint32_t b) const { return reduce(uint64_t{a} + prime_ - b); }
  uint32_t mul(uint32_t a, uint32_t b) const { return reduce(uint64_t{a} * b); }
  uint32_t inverse(uint32_t a) const;  // a != 0
  // The integer in [-(p-1)/2, (p-1)/2] of this residue.
  int32_t centred(uint32_t a) const {
    return a > prime_ / 2 ? static_cast<int32_t>(int64_t{a} - prime_) : static_cast<int32_t>(a);
  }

  bool operator==(const Field&) const = default;

 private:
  friend bool from_planes(const Field&, std::span<const int8_t>, std::span<uint32_t>);
  friend void to_planes(const Field&, std::span<const uint32_t>, std::span<int8_t>);

  uint32_t prime_;
  int planes_;
  uint32_t largest_;  // residues above it are represented by residue - p
};

// out[i] = sum_k coefficients[k] * rows[k][i] mod p. Rows as long as `out`; values below p.
void combine(const Field& field, std::span<const uint32_t> coefficients,
             std::span<const std::span<const uint32_t>> rows, std::span<uint32_t> out);

// planes[l * n + i] is digit l of residues[i]; n elements, field.planes() * n digits.
void to_planes(const Field& field, std::span<const uint32_t> residues, std::span<int8_t> planes);
// The inverse. False, with `residues` unspecified, if some digits are not what to_planes() writes
// for any residue.
bool from_planes(const Field& field, std::span<const int8_t> planes, std::span<uint32_t> residues);

// A product of planes, [planes * n] int32 as the int8 units accumulate it, to residues: sum_l 256^l
// y_l mod p.
void reduce_products(const Field& field, std::span<const int32_t> products,
                     std::span<uint32_t> residues);

// The layer's exact product of a tensor in planes, [planes * G, ...] kI8, on its device: residues
// [G, output].
std::vector<uint32_t> multiply(const Field& field, const Int8Layer& layer, const Tensor& planes);

// The elements of an integer tensor (kI8, kU8 or kI32; plain, on the CPU) as residues, and the
// integers nearest to 0 of residues.
std::vector<uint32_t> to_residues(const Field& field, const Tensor& integers);
void to_integers(const Field& field, std::span<const uint32_t> residues, std::span<int32_t> out);

}  // namespace ens
