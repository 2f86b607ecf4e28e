// Serving on the CPU: a fused graph as a list of oneDNN primitives over one arena.
#pragma once

#include <cstdint>
#include <memory>

#include "nn/core/graph.h"

namespace ens {

// Prepares `fused` (see nn/plan/fuse.h) for batches of 1 to max_batch images. dtype: kF32, or kBF16
// (activations and weights bfloat16 inside, accumulation float32); on a processor without bfloat16
// instructions kBF16 silently computes in float32, so a caller that cares asks
// Backend::supports(kBF16) first. Usage Error for other dtypes.
//
// The graph's weights are copied into packed form; the result keeps no reference to `fused`.
// A prepared size serves the batch sizes just below it, see batch_bucket(); it is prepared when it
// is first needed, once per number of OpenMP threads with which run() is called.
std::unique_ptr<Executable> compile_cpu(const Graph& fused, Dtype dtype, int64_t max_batch);

// The size at which a batch is run: the next number of at most three significant bits (1..8, 10,
// 12, 14, 16, 20, 24, ...), or max_batch if that is less. Padding stays below a quarter of the
// work, and only about four sizes are ever prepared per doubling.
int64_t batch_bucket(int64_t batch, int64_t max_batch);

}  // namespace ens
