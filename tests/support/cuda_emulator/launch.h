// SPDX-License-Identifier: Apache-2.0
// kernel<<<grid, block, shared_bytes, stream>>>(args...) without nvcc.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <tuple>
#include <type_traits>
#include <vector>

namespace ens::emulator {

// The dynamic shared memory of the block that is running; beyond what its launch asked for it is
// poisoned. Kernels only.
unsigned char* dynamic_shared();

// Of a kernel that may begin before the kernel before it has ended: each thread, and without
// barriers until then.
void grid_dependency_sync();

// What launch() below does once the arguments are captured; `pointers` are those among them.
cudaError_t launch_kernel(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes,
                          cudaStream_t stream, bool dependent, size_t parameter_bytes,
                          std::vector<const void*> pointers, std::function<void()> thread);

// The arguments are copied now, the kernel runs when the stream comes to it. Errors are returned
// and kept for cudaGetLastError(). `dependent`: the kernel may begin before the work before it has
// ended.
template <class... P>
cudaError_t launch_as(bool dependent, void (*kernel)(P...), dim3 grid, dim3 block,
                      size_t shared_bytes, cudaStream_t stream, std::type_identity_t<P>... args) {
  std::vector<const void*> pointers;
  const auto note = [&](const auto& arg) {
    using T = std::remove_cvref_t<decltype(arg)>;
    if constexpr (std::is_pointer_v<T>) pointers.push_back(arg);
  };
  (note(args), ...);
  return launch_kernel(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, stream,
                       dependent, (sizeof(P) + ... + 0), std::move(pointers),
                       [kernel, all = std::tuple<P...>(args...)] { std::apply(kernel, all); });
}
template <class... P>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, std::type_identity_t<P>... args) {
  return launch_as(false, kernel, grid, block, shared_bytes, stream, args...);
}

}  // namespace ens::emulator
