// SPDX-License-Identifier: Apache-2.0
// Tensors for secrets (internal to this folder).
#pragma once

#include "nn/core/tensor.h"

namespace ens {

// On the CPU, all zero, in pages of its own: no core dump shows them (MADV_DONTDUMP), and they are
// wiped when the last handle is dropped.
Tensor secret_tensor(const Shape& shape, Dtype dtype);
// A copy there; the original is wiped.
Tensor take_secret(Tensor& original);

}  // namespace ens
