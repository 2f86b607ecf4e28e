// SPDX-License-Identifier: Apache-2.0
// Serving on the CPU: a fused graph as a list of oneDNN primitives over one arena.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "nn/core/graph.h"

namespace ens {

// Prepares fused nets (see nn/plan/fuse.h and Backend::compile) for batches of 1 to max_batch
// images. dtype: kF32, or kBF16 (activations and weights bfloat16 inside, accumulation float32). On
// a processor without bfloat16 instructions kBF16 computes in float32, and keeps the weights of
// what BlockConv computes in bfloat16; a caller that cares asks Backend::supports(kBF16) and
// Backend::serves(kBF16) first. Usage Error for other dtypes.
//
// The weights are copied into packed form; the result keeps no reference to `nets`. Several nets
// run one after another; cloud/lanes.h is faster. A prepared size serves the batch sizes just below
// it, see batch_bucket(); it is prepared when it is first needed, once per number of OpenMP threads
// with which run() is called.
std::unique_ptr<Executable> compile_cpu(const std::vector<Graph>& nets, Dtype dtype,
                                        int64_t max_batch);

}  // namespace ens
