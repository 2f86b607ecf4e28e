// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/cpu_backend.h"

#include "base/threads.h"
#include "nn/core/graph.h"
#include "nn/cpu/allocator.h"
#include "nn/cpu/block_conv.h"
#include "nn/cpu/dnnl_util.h"
#include "nn/cpu/executable.h"

namespace ens {

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<cpu::CpuBackend>(); }

namespace cpu {

CpuBackend::CpuBackend() { prepare_threads(); }

std::string CpuBackend::description() const {
  const int threads = compute_threads();
  return "CPU, " + std::to_string(threads) + (threads == 1 ? " thread, " : " threads, ") +
         isa_name();
}

bool CpuBackend::supports(Dtype dtype) const {
  if (dtype == Dtype::kBF16) return isa() >= Isa::kAvx512Bf16;
  return dtype == Dtype::kF32;
}

bool CpuBackend::serves(Dtype dtype) const {
  return supports(dtype) || (dtype == Dtype::kBF16 && BlockConv::available(Dtype::kF32, dtype));
}

std::shared_ptr<void> CpuBackend::allocate(size_t bytes) { return cpu::allocate(bytes); }

std::unique_ptr<Executable> CpuBackend::compile(const std::vector<Graph>& nets, Dtype dtype,
                                                int64_t max_batch) {
  return compile_cpu(nets, dtype, max_batch);
}

}  // namespace cpu
}  // namespace ens
