// SPDX-License-Identifier: Apache-2.0
// Convolutions of few pixels, of all nets in one launch, on the tensor cores.
//
// With few images a layer's time is that of reading its weights. Here each warp has its own queue
// of reads, of which it takes what it has asked for itself: no tiles that warps share, no barrier
// before the sums are done. The order of a sum's products is free, so a thread may take the eight
// neighbours of a row that one read gives it for the eight places that the tensor cores want it to
// fill.
#pragma once

#include <cstddef>

#include "nn/cuda/serve_kernels.h"

namespace ens::cuda {

// float16 or bfloat16; input channels in multiples of 32, output channels of 16, no groups.
bool can_do_small_batch(const NetConv& conv);

// How many pixels a block takes: 0 .. kSmallBatchVariants - 1.
constexpr int kSmallBatchVariants = 4;
// False where the variant makes no sense: blocks mostly empty, or weights read too often.
bool suits_small_batch(const NetConv& conv, int variant);
void conv_small_batch(const NetConv& conv, int variant, Launch how);

}  // namespace ens::cuda
