// SPDX-License-Identifier: Apache-2.0
// Convolutions of few input channels, such as a network's first, as one matrix product: the images'
// windows are the rows of a matrix of kh * kw * c columns. cuDNN pads such channels to eight and
// takes several times as long.
#pragma once

#include "nn/core/backend.h"
#include "nn/cuda/context.h"

namespace ens::cuda {

// Whether this is one of them: x [B,C,H,W], w [O,C,kh,kw], y [B,O,H',W']. The matrix has to be of a
// reasonable size.
bool uses_im2col(const Shape& x, const Shape& w, const Shape& y, const ConvSpec& spec);

// y [B,O,H',W'] of this shape, in x's dtype and channels-last, without a bias. w is of x's dtype
// and channels-last; x of either layout.
Tensor im2col_conv2d(Context& c, const Tensor& x, const Tensor& w, const ConvSpec& spec,
                     const Shape& y_shape, bool tf32);

// The weight's gradient, float32 and channels-last; dy is of x's dtype and channels-last.
Tensor im2col_grad_weight(Context& c, const Tensor& x, const Tensor& dy, const ConvSpec& spec,
                          const Shape& w_shape, bool tf32);

}  // namespace ens::cuda
