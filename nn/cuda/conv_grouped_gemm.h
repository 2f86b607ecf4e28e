// SPDX-License-Identifier: Apache-2.0
// Convolutions of all nets in one launch, on the tensor cores.
//
// At small batches a layer of one net is too small for a GPU, and ten launches of it cost more than
// its arithmetic: here the nets are one more dimension of the grid, and the sums are split over
// several blocks where there are too few, so that every multiprocessor helps to read the weights.
#pragma once

#include <cstddef>

#include "nn/cuda/serve_kernels.h"

namespace ens::cuda {

// float16, bfloat16, or float8 with float16; channels in multiples of 8 (float8: 16), no groups.
bool can_do_grouped_gemm(const NetConv& conv);

// Tile sizes and splits: 0 .. kGroupedGemmVariants - 1.
constexpr int kGroupedGemmVariants = 13;
// False where the variant makes no sense for the convolution: a tile mostly empty, too short sums.
bool suits_grouped_gemm(const NetConv& conv, int variant);
// What conv_grouped_gemm() needs: bytes for partial sums, and counters that are 0 before its first
// call (it leaves them so).
size_t grouped_gemm_scratch(const NetConv& conv, int variant);
int64_t grouped_gemm_counters(const NetConv& conv, int variant);
void conv_grouped_gemm(const NetConv& conv, int variant, std::byte* scratch, int32_t* counters,
                       Launch how);

}  // namespace ens::cuda
