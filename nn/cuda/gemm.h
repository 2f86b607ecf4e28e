// SPDX-License-Identifier: Apache-2.0
// Matrix products of the training.
#pragma once

#include "nn/core/dtype.h"
#include "nn/cuda/context.h"

namespace ens::cuda {

// c [batch][m][n] = alpha * op(a) op(b) + beta * c: row-major, without gaps, op(a) [m][k].
struct Product {
  bool transpose_a = false, transpose_b = false;
  int64_t m, n, k;  // none of them 0
  float alpha = 1, beta = 0;
  bool tf32 = false;  // float32 factors may be rounded
  int64_t batch = 1;  // products, whose matrices follow each other
};
// a and b of `in`; c of `in` or float32.
void multiply(Context& c, const Product& p, const void* a, const void* b, Dtype in, void* to,
              Dtype out);

}  // namespace ens::cuda
