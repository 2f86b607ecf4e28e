// SPDX-License-Identifier: Apache-2.0
// Tensors as raw wire frames: dense, little endian, row-major (NCHW).
#pragma once

#include <span>
#include <string>

#include "nn/core/tensor.h"
#include "proto/status.h"
#include "proto/wire.pb.h"

namespace ens {

// "float32", "float16", "int8"; usage Error for anything else.
wire::DType parse_wire_dtype(const std::string& name);

// A tensor ready to travel: the frame's bytes, and what the header says of them.
struct Encoded {
  wire::TensorInfo info;
  Tensor frame;  // plain, on the CPU: kF32, kF16 or kU8
};

// What an int8 tensor has a scale for: a channel (axis 1), or a row [i, j] of the first two axes.
enum class Scales { kChannels, kRows };

// values: float32 on the CPU, finite; for INT8 of rank 2 or more. INT8 is an affine quantisation
// with a scale and an offset for each channel or row, from its smallest and largest number: the
// error is at most half a step of 1/255 of that range.
Encoded encode(const Tensor& values, wire::DType dtype, Scales scales = Scales::kChannels);

// values: multiples -127 to 127 times of `step`, which INT8 then carries exactly; of rank 2 or
// more.
Encoded encode_steps(const Tensor& values, float step);

// Checks what a peer claims before anything is allocated: known dtype, `rank` dimensions, every
// size in [1, limit], frame_bytes exactly right, scales as the dtype wants them. On success `shape`
// and `dtype` (of the frame's elements) are set.
Status check_tensor(const wire::TensorInfo& info, size_t frame_bytes, int rank, int64_t limit,
                    Shape& shape, Dtype& dtype, Scales scales = Scales::kChannels);

// The numbers of a frame that check_tensor accepted, float32, into `values` of that shape. `bytes`
// may be unaligned.
void decode(const wire::TensorInfo& info, const void* bytes, Tensor values,
            Scales scales = Scales::kChannels);

// Whether a float tensor (f32 or f16) holds only finite numbers.
bool all_finite(const Tensor& tensor);

}  // namespace ens
