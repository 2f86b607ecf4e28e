// SPDX-License-Identifier: Apache-2.0
// The one place that launches kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "nn/cuda/context.h"

namespace ens::cuda {

// kernel<<<grid, block, shared_bytes, how.stream>>>(args...), each argument converted to the
// kernel's own parameter type. Error if the launch is refused; what goes wrong later shows at the
// next synchronisation.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, Launch how,
            A&&... args) {
  static_assert(sizeof...(P) == sizeof...(A), "one argument for each parameter");
  set_dynamic_shared_memory_limit(reinterpret_cast<const void*>(kernel), shared_bytes);
  cudaLaunchAttribute pdl{};
  pdl.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  pdl.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = how.stream;
  config.attrs = &pdl;
  config.numAttrs = how.dependent ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...), "kernel launch");
}

// The block's dynamic shared memory.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}

// For kernels that support programmatic dependent launch: every thread calls it before it touches
// memory that earlier work of the stream writes or that the kernel itself writes. Returns when the
// kernel before has ended, and with it all work before that; then it lets the next kernel begin if
// that was launched as a dependent.
__device__ inline void grid_dependency_sync() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace ens::cuda
