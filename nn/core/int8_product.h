// SPDX-License-Identifier: Apache-2.0
// What Backend's exact products of 8-bit integers, conv2d_s8 and gemm_s8, accept.
//
// A sum of n products stays within int32 for n * |x| * |w| < 2^31. The number of terms is limited
// for weights in [-127, 127], as symmetric quantisation makes them: x is [-128, 127] or [0, 255].
// With weights of -128 there may be 131,071 or 65,793 terms before a sum can wrap around.
#pragma once

#include <cstdint>

#include "nn/core/backend.h"

namespace ens {

inline constexpr int64_t kMaxTermsI8 = 132104, kMaxTermsU8 = 66311;  // by the dtype of x or a

// The shape of the result. Usage Error for what the verb does not take.
Shape conv2d_s8_shape(const Tensor& x, const Tensor& w, const ConvSpec& spec);
Shape gemm_s8_shape(bool transpose_a, bool transpose_b, const Tensor& a, const Tensor& b);

}  // namespace ens
