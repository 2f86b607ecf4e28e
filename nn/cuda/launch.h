// The one place that launches kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "nn/cuda/context.h"

namespace ens::cuda {

// kernel<<<grid, block, shared_bytes, stream>>>(args...), each argument converted to the
// kernel's own parameter type. Error if the launch is refused; what goes wrong later shows at the
// next synchronisation.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            A&&... args) {
  static_assert(sizeof...(P) == sizeof...(A), "one argument for each parameter");
  ask_for_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
  kernel<<<grid, block, shared_bytes, stream>>>(static_cast<P>(args)...);
  check(cudaGetLastError(), "kernel launch");
}

// The block's dynamic shared memory.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}

}  // namespace ens::cuda
