// The Backend of one GPU: cuDNN convolutions, cuBLAS matrix products, own kernels for the rest.
//
// Images are kChannelsLast inside: convolutions, pooling and normalisation answer in it and convert
// what comes in another layout. Activations are float32, bfloat16 or float16; parameters float32.
// All work is asynchronous on the calling thread's stream (nn/cuda/context.h); copies to the CPU
// wait until the numbers are there. Results of one input are equal from run to run: sums have a
// fixed order, and cuDNN's algorithms are chosen among the deterministic ones.
#pragma once

#include <memory>

#include "nn/core/backend.h"

namespace ens::cuda {

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int device);
  Device device() const override { return {Device::Type::kCuda, device_}; }
  std::string description() const override { return description_; }
  bool supports(Dtype dtype) const override;
  std::shared_ptr<void> allocate(size_t bytes) override;
  void synchronize() override;

 private:
  int device_;
  std::string description_;  // "NVIDIA H200, CUDA 13.0, cuDNN 9.19.0"
};

std::unique_ptr<Backend> make_cuda_backend(int device);

}  // namespace ens::cuda
