// Tensors as raw wire frames: dense, little endian, row-major (NCHW).
#pragma once

#include <span>

#include "nn/core/tensor.h"
#include "proto/status.h"
#include "proto/wire.pb.h"

namespace ens {

wire::TensorInfo describe(const Tensor& tensor);  // kF32 or kF16, plain

// Checks what a peer claims before anything is allocated: known dtype, `rank` dimensions, every
// size in [1, limit], frame_bytes exactly right. On success `shape` and `dtype` are set.
Status check_tensor(const wire::TensorInfo& info, size_t frame_bytes, int rank, int64_t limit,
                    Shape& shape, Dtype& dtype);

// Whether a float tensor (f32 or f16) holds only finite numbers.
bool all_finite(const Tensor& tensor);

}  // namespace ens
