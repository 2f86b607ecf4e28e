// SPDX-License-Identifier: Apache-2.0
#include "nn/cuda/cuda_backend.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "base/error.h"
#include "nn/cuda/context.h"
#include "nn/cuda/executable.h"

namespace ens {

void offer_gpus() {
  // Nets that are trained side by side have two streams each; with the driver's 8 queues to the GPU
  // some of them would wait for others. Read when CUDA starts.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/0);
  offer_devices([]() -> std::string {
    std::string why;
    const int devices = cuda::count_devices(why);
    for (int i = 0; i < devices; ++i) install_backend(cuda::make_cuda_backend(i));
    return why;
  });
}

namespace cuda {

std::unique_ptr<Backend> make_cuda_backend(int device) {
  return std::make_unique<CudaBackend>(device);
}

CudaBackend::CudaBackend(int device) : device_(device) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  int runtime = 0;
  check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  const size_t dnn = cudnnGetVersion();
  description_ = std::string(properties.name) + ", CUDA " + std::to_string(runtime / 1000) + "." +
                 std::to_string(runtime % 1000 / 10) + ", cuDNN " + std::to_string(dnn / 10000) +
                 "." + std::to_string(dnn % 10000 / 100) + "." + std::to_string(dnn % 100);
  has_float8_ = properties.major > 8 || (properties.major == 8 && properties.minor >= 9);
}

bool CudaBackend::supports(Dtype dtype) const {
  return dtype == Dtype::kF32 || dtype == Dtype::kBF16 || dtype == Dtype::kF16;
}

std::shared_ptr<void> CudaBackend::allocate(size_t bytes) {
  return context(device_).allocate(bytes);
}

std::function<float()> CudaBackend::item_later(const Tensor& t) {
  if (t.numel() != 1) fail("item_later() needs one element, the tensor is " + t.shape().str());
  const Tensor number = t.to(Dtype::kF32);
  Context& c = context(device_);
  return c.download_later(read<float>(c, number));
}

std::unique_ptr<CapturedGraph> CudaBackend::capture(const std::function<void()>& work) {
  struct Step : CapturedGraph {
    Context& c;
    std::unique_ptr<Capture::Graph> graph;
    explicit Step(Context& context) : c(context) {}
    void run() override { graph->launch(c); }
  };
  auto step = std::make_unique<Step>(context(device_));
  try {
    Capture capture(step->c);
    work();
    step->graph = capture.finish();
  } catch (const Error& e) {  // a library call that cannot be captured, on this GPU
    static std::once_flag said;
    std::call_once(said, [&] {
      std::fprintf(stderr, "%s: training steps are not captured as a CUDA graph: %s\n",
                   device().str().c_str(), e.what());
    });
    return nullptr;
  }
  step->run();  // capturing does nothing yet
  return step;
}

void CudaBackend::synchronize() { context(device_).synchronize(); }

std::unique_ptr<Executable> CudaBackend::compile(const std::vector<Graph>& nets, Dtype dtype,
                                                 int64_t max_batch) {
  if (dtype == Dtype::kF8 && !has_float8_) {
    usage_fail("this GPU has no float8 arithmetic", device().str(),
               "float8 needs an NVIDIA GPU of compute capability 8.9 or newer; use bfloat16");
  }
  return compile_cuda(nets, dtype, max_batch, device_, {tf32_, {}});
}

}  // namespace cuda
}  // namespace ens
