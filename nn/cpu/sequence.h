// SPDX-License-Identifier: Apache-2.0
// What transformers compute beside matrix products, on memory: shared by the backend's verbs and
// the serving executable. Activations are float32 or bfloat16 (`dtype`), plain; arithmetic is
// float32. Work is split over the caller's OpenMP team.
#pragma once

#include <cstdint>

#include "nn/core/dtype.h"

namespace ens::cpu {

struct TokenShape {
  int64_t tokens, width;  // L, D
};

// x, y [rows, width]; mean and rstd [rows] may be null.
void layer_norm_rows(Dtype dtype, const void* x, const float* gamma, const float* beta, void* y,
                     int64_t rows, int64_t width, float eps, float* mean, float* rstd);
// qkv [batch, L, 3 * D] -> y [batch, L, D].
void attend(Dtype dtype, const void* qkv, void* y, int64_t batch, int heads, TokenShape shape);
// x [batch, L - 1, D] -> y [batch, L, D]: `first` [D] before x, + positions [L, D].
void place_tokens(Dtype dtype, const void* x, const float* first, const float* positions, void* y,
                  int64_t batch, TokenShape shape);

}  // namespace ens::cpu
