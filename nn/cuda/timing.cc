// SPDX-License-Identifier: Apache-2.0
#include "nn/cuda/timing.h"

#include <algorithm>

namespace ens::cuda {
namespace {

constexpr int kTimes = 3;

struct Event {
  cudaEvent_t event = nullptr;
  Event() { check(cudaEventCreate(&event), "cudaEventCreate"); }
  ~Event() { cudaEventDestroy(event); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
};

}  // namespace

std::vector<float> times_of(const std::vector<const Capture::Graph*>& graphs, Context& c) {
  int cache = 0;
  check(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, c.device), "cudaDeviceGetAttribute");
  const size_t bytes = 2 * static_cast<size_t>(cache);
  const auto memory = c.allocate(bytes);
  const Event begin, end;
  std::vector<std::vector<float>> times(graphs.size());
  for (int i = 0; i < kTimes; ++i) {
    for (size_t g = 0; g < graphs.size(); ++g) {
      // Also keeps the GPU busy until the graph has been given to it.
      check(cudaMemsetAsync(memory.get(), 0, bytes, c.stream), "cudaMemsetAsync");
      check(cudaEventRecord(begin.event, c.stream), "cudaEventRecord");
      graphs[g]->launch(c);
      check(cudaEventRecord(end.event, c.stream), "cudaEventRecord");
      check(cudaEventSynchronize(end.event), "cudaEventSynchronize");
      check(cudaEventElapsedTime(&times[g].emplace_back(), begin.event, end.event),
            "cudaEventElapsedTime");
    }
  }
  std::vector<float> medians;
  for (auto& all : times) {
    std::ranges::sort(all);
    medians.push_back(all[kTimes / 2]);
  }
  return medians;
}

}  // namespace ens::cuda
