// SPDX-License-Identifier: Apache-2.0
// Freivalds' check: whether an untrusted worker's output of a linear layer is right, at 1/O of the
// layer's cost.
//
// For a secret vector s over the O output channels, sum_o s_o y_o = f(W_s, x) with W_s = sum_o s_o
// W_o holds for y = f(W, x). A verdict tells the worker something of s, so s is drawn anew after
// every rejection and regularly.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "nn/core/backend.h"
#include "offload/core/field.h"
#include "offload/core/seed.h"

namespace ens {

class ProductCheck {
 public:
  virtual ~ProductCheck() = default;

  // Draws the secret vectors from this seed, which must be secret and fresh, and computes W_s.
  virtual void redraw(const Seed& seed) = 0;

  // x: `count` inputs of x_shape [C, H, W] or [C], y: as many outputs of y_shape [O, H', W'] or
  // [O]; residues, or the bits of float32. After redraw(). False: y is not the layer's output of x.
  virtual bool check(std::span<const uint32_t> x, const Shape& x_shape, std::span<const uint32_t> y,
                     const Shape& y_shape, int64_t count) const = 0;
};

// weight [O, C/groups, kh, kw] or [O, C] int8, plain, on the CPU; spec is ignored for the latter.

// Over a field: s is uniform, and a wrong y passes with probability 1/p for each repetition.
std::unique_ptr<ProductCheck> field_check(const Field& field, Tensor weight, const ConvSpec& spec,
                                          int repetitions);

// Of float32: s is uniform in [-1, 1), and both sides are compared in double, up to 32 * 2^-24 *
// sqrt(n) * |W_s| * max |x_i| for sums of n terms: twenty times what rounding costs, and less than
// TF32 costs for sums of up to some thousand terms. A wrong y passes if it is within that of the
// right one; the noise of the shares, which makes x large, makes this coarse.
std::unique_ptr<ProductCheck> real_check(Tensor weight, const ConvSpec& spec);

}  // namespace ens
