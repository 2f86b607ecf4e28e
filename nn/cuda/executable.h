// SPDX-License-Identifier: Apache-2.0
// Serving on a GPU: nets of one form, each batch size captured as one CUDA graph.
//
// A step is computed for all nets in one launch where there is such a kernel (all but cuDNN's);
// the steps between are computed net by net on parallel branches of the graph. Kernels of our own
// that follow each other may use programmatic dependent launch (Launch, context.h). Values are
// channels-last; those of each net lie in an arena of its own, at equal distances.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "nn/core/graph.h"

namespace ens::cuda {

// How a convolution (or linear layer) of all nets is computed.
enum class ConvAlgorithm {
  kSmallBatchTensorCore,  // our own kernel for few pixels, one launch for all nets (16-bit types)
  kGroupedImplicitGemm,   // our own tensor-core kernel, one launch for all nets (16-bit types)
  kDenseSmallMap,         // maps of few pixels as one batched matrix product over whole images
  kIm2colGemm,            // im2col, then one batched matrix product of cuBLASLt
  kCudnn,                 // cuDNN, net by net on parallel branches of the graph
  kNaive,                 // plain loops, for what nothing else computes
};
const char* name(ConvAlgorithm algorithm);

// Backend::compile on device `device`. dtype: kF32, kBF16, kF16 or kF8, in which the layers that
// nn/core/float8.h names are computed in float8 and all else in float16. A prepared size serves
// the batch sizes just below it, see batch_bucket(); it is prepared (kernels measured, graph
// captured) when it is first needed.
struct ServeOptions {
  bool tf32 = true;  // float32 products may round their factors to TF32
  // Instead of measuring: this algorithm wherever it is possible, with programmatic dependent
  // launch if `dependent`.
  std::optional<ConvAlgorithm> prefer;
  bool dependent = false;
};
std::unique_ptr<Executable> compile_cuda(const std::vector<Graph>& nets, Dtype dtype,
                                         int64_t max_batch, int device,
                                         const ServeOptions& options = {});

}  // namespace ens::cuda
