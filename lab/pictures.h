// SPDX-License-Identifier: Apache-2.0
// Disguised images as pictures to look at.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "nn/core/tensor.h"

namespace ens {

// A row [C, H, W] as a picture [1 or 3, H, W] in [0, 1]: `low` black, `high` white. With other
// numbers of channels, the first one; of codes [n, d] a grey line each.
Tensor as_picture(const Tensor& row, float low, float high);

// Pictures of one size side by side in rows of `columns`, so many pixels apart.
Tensor tiled(const std::vector<Tensor>& pictures, int64_t columns, int64_t down = 1,
             int64_t across = 1);

// The smallest and the largest element, apart from each other; bytes: 0 and 255.
std::pair<float, float> range_of(const Tensor& rows, bool bytes);

}  // namespace ens
