// SPDX-License-Identifier: Apache-2.0
// The algorithms for one convolution of all nets, and the choice between them.
//
// Which one is fastest depends on the layer, the batch, the number of nets and the GPU. Those that
// may be are timed on the device when a batch size is prepared, once in a process for each form of
// layer and power of two of the batch.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "nn/core/tensor.h"
#include "nn/cuda/context.h"
#include "nn/cuda/executable.h"
#include "nn/cuda/serve_kernels.h"

namespace ens::cuda {

// Streams on which nets run side by side.
class Branches {
 public:
  explicit Branches(int64_t count);
  ~Branches();
  Branches(const Branches&) = delete;
  Branches& operator=(const Branches&) = delete;

  // f(stream, net) for every net, `at_once` of them side by side: what they give these streams
  // comes after what c's stream was given, and before what it is given next.
  void each(Context& c, int64_t nets, int64_t at_once,
            const std::function<void(cudaStream_t, int64_t)>& f) const;

 private:
  std::vector<cudaStream_t> streams_;
  std::vector<cudaEvent_t> done_;
  cudaEvent_t begun_ = nullptr;
};

// How many nets run side by side. A batch of 64 makes each layer of one net large enough for the
// whole GPU; then a few streams fill the gaps between kernels, and the maps of few nets are more
// likely to stay in the L2 cache than those of ten. Measured on an H200: 6 at batch 128, 2 at 512.
inline int64_t nets_at_once(int64_t nets, int64_t batch) {
  return batch < 64 ? nets : std::min<int64_t>(nets, batch < 256 ? 6 : 2);
}

// A small map's convolution as a matrix (see expand_weight()), made when it is first wanted.
struct DenseSmallMap {
  Tensor memory;
  NetMemory matrix, bias;
};

struct PreparedConv {
  bool per_net = false;       // run() is for one net, else for all
  bool supports_pdl = false;  // run() is one kernel that calls grid_dependency_sync()
  size_t scratch = 0;         // bytes that run() wants, for one net or for all
  std::function<void(Context&, Launch, int64_t net, std::byte* scratch)> run;
};

// Whether c's device and driver can capture programmatic dependent launches. Tried once.
bool supports_pdl(Context& c);

// The fastest algorithm on this device, or `prefer` where that suits. `scratch(bytes)` returns so
// much memory of c's device. Leaves anything in the convolution's output.
PreparedConv choose(const NetConv& conv, std::optional<ConvAlgorithm> prefer, Context& c,
                    const Branches& branches, std::weak_ptr<DenseSmallMap>& dense_small_map,
                    const std::function<std::byte*(size_t)>& scratch);

// The algorithms in the order in which they are tried, with why they are not; empty: timed.
std::vector<ConvCandidate> explain(const NetConv& conv);

}  // namespace ens::cuda
