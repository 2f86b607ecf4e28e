// SPDX-License-Identifier: Apache-2.0
// Freivalds' check: whether an untrusted worker's output of a linear layer is right, at 1/O of the
// layer's cost.
//
// For a secret vector s over the O output channels, sum_o s_o y_o = f(W_s, x) with W_s = sum_o s_o
// W_o holds for y = f(W, x). A wrong y passes with probability 1/p for each repetition, since s is
// uniform and unknown to the worker. A verdict tells the worker something of s, so s is drawn anew
// after every rejection and regularly.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nn/core/backend.h"
#include "offload/core/field.h"
#include "offload/core/seed.h"

namespace ens {

class Freivalds {
 public:
  // weight [O, C/groups, kh, kw] or [O, C] int8, plain, on the CPU; spec is ignored for the latter.
  Freivalds(const Field& field, Tensor weight, const ConvSpec& spec, int repetitions);

  // Draws the secret vectors from this seed, which must be secret and fresh, and computes W_s.
  void redraw(const Seed& seed);

  // x: `count` inputs of x_shape [C, H, W] or [C], y: as many outputs of y_shape [O, H', W'] or
  // [O], residues. After redraw(). False: y is not the layer's output of x.
  bool check(std::span<const uint32_t> x, const Shape& x_shape, std::span<const uint32_t> y,
             const Shape& y_shape, int64_t count) const;

 private:
  Field field_;
  Tensor weight_;
  ConvSpec spec_;
  int repetitions_;
  int64_t outputs_, channels_, kernel_h_, kernel_w_;
  struct Secret {
    std::vector<uint32_t> s;       // [O]
    std::vector<uint32_t> weight;  // W_s [C, kh, kw]
  };
  std::vector<Secret> secrets_;
};

}  // namespace ens
