// SPDX-License-Identifier: Apache-2.0
// A convolution or matrix product with int8 weights, without its bias: the linear part of a layer.
#pragma once

#include "nn/core/backend.h"

namespace ens {

struct Int8Layer {
  Tensor weight;  // kI8, CPU, plain, in [-127, 127]: [O, C/groups, kh, kw], or [O, C] of a matrix
                  // product
  ConvSpec conv;  // of a convolution
};

// Of one input [C, H, W] or [C]; usage Error if the layer does not take it.
Shape output_shape(const Int8Layer& layer, const Shape& input);
// x [B, ...] kI8 or kU8 -> [B, ...] kI32, exact. x kF32 -> kF32, as the backend computes float32.
Tensor multiply(const Int8Layer& layer, const Tensor& x);

}  // namespace ens
