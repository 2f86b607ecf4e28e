// Serving on a GPU: a fused graph (nn/core/graph.h) prepared for batches up to max_batch.
#pragma once

#include <memory>

#include "nn/core/graph.h"

namespace ens::cuda {

// Backend::compile of device `device`. dtype: kF32, kBF16 or kF16.
std::unique_ptr<Executable> compile_cuda(const Graph& graph, Dtype dtype, int64_t max_batch,
                                         int device);

}  // namespace ens::cuda
