// SPDX-License-Identifier: Apache-2.0
// Convolutions by strips of output rows: what is read and written at once fits a cache, and no
// scratch grows with the image.
#pragma once

#include "nn/core/int8_layer.h"

namespace ens {

// As multiply(layer, x). `bytes`: about how much one strip reads and writes.
Tensor multiply_tiled(const Int8Layer& layer, const Tensor& x, int64_t bytes);

}  // namespace ens
