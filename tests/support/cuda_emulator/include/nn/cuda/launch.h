// SPDX-License-Identifier: Apache-2.0
// Takes the place of nn/cuda/launch.h in an emulated build: the same launch(), in plain C++.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "nn/cuda/context.h"
#include "tests/support/cuda_emulator/launch.h"

namespace ens::cuda {

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, Launch how,
            A&&... args) {
  static_assert(sizeof...(P) == sizeof...(A), "one argument for each parameter");
  set_dynamic_shared_memory_limit(reinterpret_cast<const void*>(kernel), shared_bytes);
  emulator::launch_as(how.dependent, kernel, grid, block, shared_bytes, how.stream,
                      static_cast<P>(args)...);
  check(cudaGetLastError(), "kernel launch");
}

inline unsigned char* dynamic_shared() { return emulator::dynamic_shared(); }
inline void grid_dependency_sync() { emulator::grid_dependency_sync(); }

}  // namespace ens::cuda
