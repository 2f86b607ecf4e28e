// SPDX-License-Identifier: Apache-2.0
// Lagrange coding with secret noise: K inputs and T uniform noises become S shares, of which any T
// are uniform whatever the inputs, and any K + T determine the inputs.
//
// For every position of the tensors there is one polynomial f of degree below K + T over the field,
// with
//   f(a_k) = input k  (k < K)       f(b_j) = share j  (j < S)
// where a_0 .. a_{K-1}, b_0 .. b_{S-1} are distinct public points. The noises are the first T
// shares, drawn uniformly; with the inputs they fix f, and the others are its values. Because a
// linear layer commutes with linear combinations, the layer's outputs of the shares lie on a
// polynomial through its outputs of the inputs.
//
// Secrecy: for fixed inputs, (noises) -> (any T shares) is a bijection, since f is also fixed by
// its K inputs and those T shares. This is Shamir's secret sharing (1979) with K secrets, as in
// Lagrange coded computing (Yu et al., 2019) and DarKnight (2207.00083). The first T shares are
// uniform by themselves, so each may travel as a seed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "offload/core/field.h"

namespace ens {

class LagrangeCode {
 public:
  // inputs K >= 1, noises T >= 0, shares S >= K + T. Usage Error for other numbers, or if the field
  // has fewer than K + S elements.
  LagrangeCode(const Field& field, int inputs, int noises, int shares);

  const Field& field() const { return field_; }
  int inputs() const { return inputs_; }
  int noises() const { return noises_; }
  int shares() const { return shares_; }
  int needed() const { return inputs_ + noises_; }  // shares that decode

  // Share j is sum_i encoding(j)[i] * row i, with the K inputs and then the T noises as rows.
  std::span<const uint32_t> encoding(int share) const;

  // K rows of K + T coefficients: input k (or its output) from those of these shares, in this
  // order. `shares`: K + T distinct ones.
  std::vector<std::vector<uint32_t>> decoding(std::span<const int> shares) const;

 private:
  uint32_t input_point(int k) const { return static_cast<uint32_t>(shares_ + k); }
  uint32_t share_point(int j) const { return static_cast<uint32_t>(j); }
  // The values at x of the Lagrange polynomials of these points.
  std::vector<uint32_t> lagrange(std::span<const uint32_t> points, uint32_t x) const;

  Field field_;
  int inputs_, noises_, shares_;
  std::vector<std::vector<uint32_t>> encoding_;
};

}  // namespace ens
