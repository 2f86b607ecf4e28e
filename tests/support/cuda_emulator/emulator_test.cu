// Does the emulator see what it is there to see? Programs with a mistake in them, and without.
#include <cublas_v2.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <functional>
#include <thread>
#include <vector>

#include "tests/support/cuda_emulator/emulator.h"
#include "tests/support/cuda_emulator/launch.h"

namespace ens::emulator {
namespace {

#define ENS_OK(call) ASSERT_EQ(call, cudaSuccess)

// Starts the seed's choices again, with the lock.
void start(uint64_t value) {
  const Lock lock(machine());
  reseed(value);
}

struct Stream {
  Stream() { cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking); }
  ~Stream() { cudaStreamDestroy(handle); }
  operator cudaStream_t() const { return handle; }
  cudaStream_t handle = nullptr;
};

struct Event {
  Event() { cudaEventCreateWithFlags(&handle, cudaEventDisableTiming); }
  ~Event() { cudaEventDestroy(handle); }
  operator cudaEvent_t() const { return handle; }
  cudaEvent_t handle = nullptr;
};

template <typename T>
struct Array {
  explicit Array(size_t n) { cudaMalloc(reinterpret_cast<void**>(&data), n * sizeof(T)); }
  ~Array() { cudaFree(data); }
  operator T*() const { return data; }
  T* data = nullptr;
};

template <typename T>
std::vector<T> fetch(const T* data, size_t n) {
  std::vector<T> v(n);
  EXPECT_EQ(cudaMemcpy(v.data(), data, n * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
  return v;
}

__global__ void fill(int* p, int n, int value) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) p[i] = value;
}

__global__ void add(const int* a, int* b, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) b[i] += a[i];
}

cudaError_t fill_all(int* p, int n, int value, cudaStream_t stream) {
  return launch(fill, dim3(static_cast<unsigned>(n + 31) / 32), dim3(32), 0, stream, p, n, value);
}

// ---- kernels

__global__ void sum_by_barriers(const int* x, int* sums) {
  __shared__ int shared[256];
  const unsigned t = threadIdx.x;
  shared[t] = x[blockIdx.x * 256 + t];
  __syncthreads();
  for (unsigned half = 128; half > 0; half /= 2) {
    if (t < half) shared[t] += shared[t + half];
    __syncthreads();
  }
  if (t == 0) sums[blockIdx.x] = shared[0];
}

__global__ void sum_without_barriers(const int* x, int* sums) {
  __shared__ int shared[256];
  const unsigned t = threadIdx.x;
  shared[t] = x[blockIdx.x * 256 + t];
  for (unsigned half = 128; half > 0; half /= 2) {
    if (t < half) shared[t] += shared[t + half];
  }
  if (t == 0) sums[blockIdx.x] = shared[0];
}

__global__ void sum_by_shuffles(const int* x, int* sums, unsigned* votes, int* shifted) {
  int v = x[threadIdx.x];
  for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(~0u, v, o);
  sums[threadIdx.x] = v;
  votes[threadIdx.x] = __ballot_sync(~0u, threadIdx.x % 3 == 0);
  shifted[threadIdx.x] = __shfl_down_sync(~0u, x[threadIdx.x], 4, 8);
}

std::vector<int> numbers(size_t n) {
  std::vector<int> v(n);
  for (size_t i = 0; i < n; ++i) v[i] = static_cast<int>(i * i % 1009);
  return v;
}

TEST(CudaEmulator, BarriersMakeReductionsRight) {
  const std::vector<int> x = numbers(1024);
  std::vector<int> want(4);
  for (size_t i = 0; i < x.size(); ++i) want[i / 256] += x[i];
  const Array<int> device(1024), sums(4);
  ENS_OK(cudaMemcpy(device, x.data(), 4096, cudaMemcpyHostToDevice));
  int wrong = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    start(seed);
    ENS_OK(launch(sum_by_barriers, dim3(4), dim3(256), 0, nullptr, device, sums));
    EXPECT_EQ(fetch<int>(sums, 4), want);
    ENS_OK(launch(sum_without_barriers, dim3(4), dim3(256), 0, nullptr, device, sums));
    wrong += fetch<int>(sums, 4) != want;
  }
  EXPECT_EQ(wrong, 20) << "missing barriers went unnoticed";
}

TEST(CudaEmulator, WarpsExchangeValues) {
  const std::vector<int> x = numbers(96);
  const Array<int> device(96), sums(96), shifted(96);
  const Array<unsigned> votes(96);
  ENS_OK(cudaMemcpy(device, x.data(), 96 * 4, cudaMemcpyHostToDevice));
  ENS_OK(launch(sum_by_shuffles, dim3(1), dim3(96), 0, nullptr, device, sums, votes, shifted));
  const auto got = fetch<int>(sums, 96), down = fetch<int>(shifted, 96);
  const auto ballots = fetch<unsigned>(votes, 96);
  for (size_t i = 0; i < 96; ++i) {
    int want = 0;
    unsigned votes_wanted = 0;
    for (size_t j = i / 32 * 32; j < i / 32 * 32 + 32; ++j) {
      want += x[j];
      if (j % 3 == 0) votes_wanted |= 1u << (j % 32);
    }
    EXPECT_EQ(got[i], want) << i;
    EXPECT_EQ(ballots[i], votes_wanted) << i;
    EXPECT_EQ(down[i], x[i % 8 < 4 ? i + 4 : i]) << i;
  }
}

__global__ void half_waits(int* p) {
  if (threadIdx.x < 16) __shfl_xor_sync(~0u, 1, 1);
  p[0] = 1;
  __syncthreads();
}

TEST(CudaEmulatorDeathTest, ThreadsThatWaitForEver) {
  EXPECT_DEATH(
      {
        const Array<int> p(1);
        launch(half_waits, dim3(1), dim3(32), 0, nullptr, p);
        cudaDeviceSynchronize();
      },
      "kernel .*wait for one another|kernel .*have returned");
}

TEST(CudaEmulator, RefusesImpossibleLaunches) {
  const Array<int> p(1);
  EXPECT_EQ(launch(fill, dim3(1), dim3(1025), 0, nullptr, p, 1, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(fill, dim3(0), dim3(32), 0, nullptr, p, 1, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(fill, dim3(1), dim3(32), 49 << 10, nullptr, p, 1, 0), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

// ---- memory

TEST(CudaEmulatorDeathTest, HostCodeMustNotTouchDeviceMemory) {
  EXPECT_DEATH(
      {
        const Array<int> p(10);
        static_cast<volatile int*>(p.data)[3] = 1;
      },
      "the host's code touched memory of device 0: byte 12 of an allocation of 40 bytes");
}

TEST(CudaEmulatorDeathTest, KernelsMustNotTouchHostMemory) {
  EXPECT_DEATH(
      {
        std::vector<int> host(32);
        launch(fill, dim3(1), dim3(32), 0, nullptr, host.data(), 32, 1);
      },
      "kernel .*is not memory of device 0");
}

TEST(CudaEmulatorDeathTest, CopiesAreBounded) {
  EXPECT_DEATH(
      {
        const Array<int> p(10);
        std::vector<int> host(11);
        cudaMemcpy(p, host.data(), 44, cudaMemcpyHostToDevice);
      },
      "a copy's target: bytes 0 to 44 of an allocation of 40");
}

TEST(CudaEmulator, CopiesGoWhereTheySay) {
  const Array<int> p(10);
  std::vector<int> host(10);
  EXPECT_EQ(cudaMemcpy(p, host.data(), 40, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host.data(), p, 40, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
  cudaGetLastError();
}

TEST(CudaEmulator, FreshMemoryIsNotZero) {
  const Array<float> p(3);
  for (float v : fetch<float>(p, 3)) EXPECT_TRUE(std::isnan(v));
}

#ifdef __SANITIZE_ADDRESS__
TEST(CudaEmulatorDeathTest, KernelsStayInsideTheirMemory) {
  EXPECT_DEATH(
      {
        const Array<int> p(100);
        fill_all(p, 101, 1, nullptr);
        cudaDeviceSynchronize();
      },
      "AddressSanitizer.*");
}

TEST(CudaEmulatorDeathTest, MemoryMustNotBeUsedAfterItIsFreed) {
  EXPECT_DEATH(
      {
        const Stream stream;
        void* p = nullptr;
        cudaMallocAsync(&p, 128, stream);
        cudaFreeAsync(p, stream);
        fill_all(static_cast<int*>(p), 32, 1, stream);
        cudaStreamSynchronize(stream);
      },
      "AddressSanitizer");
}
#endif

// ---- streams. What is missing must show for some seed, and what is there must help for all.

int times_wrong(const std::function<bool()>& right) {
  int wrong = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    start(seed);
    wrong += !right();
  }
  return wrong;
}

bool consumer_waits(bool wait) {
  constexpr int kN = 100;
  const Stream producer, consumer;
  const Event ready;
  const Array<int> a(kN), b(kN);
  fill_all(a, kN, 1, producer);
  fill_all(b, kN, 1, producer);
  cudaStreamSynchronize(producer);
  fill_all(a, kN, 5, producer);
  cudaEventRecord(ready, producer);
  if (wait) cudaStreamWaitEvent(consumer, ready, 0);
  launch(add, dim3(4), dim3(32), 0, consumer, a.data, b.data, kN);
  cudaStreamSynchronize(consumer);
  return fetch<int>(b, kN) == std::vector<int>(kN, 6);
}

TEST(CudaEmulator, AMissingEventWaitIsSeen) {
  EXPECT_EQ(times_wrong([] { return consumer_waits(true); }), 0);
  EXPECT_GT(times_wrong([] { return consumer_waits(false); }), 10);
}

bool pinned_buffer_is_kept(bool wait) {
  const Stream stream;
  const Array<int> p(1);
  int* pinned = nullptr;
  cudaMallocHost(reinterpret_cast<void**>(&pinned), 4);
  *pinned = 1;
  cudaMemcpyAsync(p, pinned, 4, cudaMemcpyHostToDevice, stream);
  if (wait) cudaStreamSynchronize(stream);
  *pinned = 2;  // too early without waiting
  cudaStreamSynchronize(stream);
  const bool right = fetch<int>(p, 1)[0] == 1;
  cudaFreeHost(pinned);
  return right;
}

TEST(CudaEmulator, PinnedMemoryUsedTooEarlyIsSeen) {
  EXPECT_EQ(times_wrong([] { return pinned_buffer_is_kept(true); }), 0);
  EXPECT_GT(times_wrong([] { return pinned_buffer_is_kept(false); }), 10);
}

TEST(CudaEmulator, PageableMemoryIsReadAtOnce) {
  EXPECT_EQ(times_wrong([] {
              const Stream stream;
              const Array<int> p(1);
              int value = 1;
              cudaMemcpyAsync(p, &value, 4, cudaMemcpyHostToDevice, stream);
              value = 2;
              cudaStreamSynchronize(stream);
              return fetch<int>(p, 1)[0] == 1;
            }),
            0);
}

TEST(CudaEmulator, TheDefaultStreamWaitsForBlockingStreamsOnly) {
  const auto right = [](unsigned flags) {
    cudaStream_t other = nullptr;
    cudaStreamCreateWithFlags(&other, flags);
    const Array<int> p(1);
    fill_all(p, 1, 1, other);
    cudaStreamSynchronize(other);
    fill_all(p, 1, 2, other);
    const bool new_value = fetch<int>(p, 1)[0] == 2;  // on the default stream
    cudaStreamDestroy(other);
    return new_value;
  };
  EXPECT_EQ(times_wrong([&] { return right(cudaStreamDefault); }), 0);
  EXPECT_GT(times_wrong([&] { return right(cudaStreamNonBlocking); }), 5);
}

TEST(CudaEmulator, TheSeedDecidesEverything) {
  const auto run = [] {
    std::vector<bool> rights;
    for (int i = 0; i < 20; ++i) rights.push_back(consumer_waits(false));
    return rights;
  };
  consumer_waits(false);  // makes what is made at the first use: the default stream
  start(7);
  const auto first = run();
  start(7);
  EXPECT_EQ(run(), first);
  start(8);
  EXPECT_NE(run(), first);
}

TEST(CudaEmulator, HostFunctionsRunWithoutACall) {
  const Stream stream;
  const Array<int> p(1);
  std::atomic<bool> called = false;
  fill_all(p, 1, 1, stream);
  ENS_OK(cudaLaunchHostFunc(
      stream, [](void* data) { *static_cast<std::atomic<bool>*>(data) = true; }, &called));
  while (!called) std::this_thread::yield();
}

TEST(CudaEmulator, PollingComesToAnEnd) {
  const Stream stream;
  const Event done;
  const Array<int> p(1);
  for (int i = 0; i < 50; ++i) fill_all(p, 1, i, stream);
  ENS_OK(cudaEventRecord(done, stream));
  while (cudaEventQuery(done) == cudaErrorNotReady) {
  }
  ENS_OK(cudaEventQuery(done));
}

TEST(CudaEmulator, ThreadsShareTheMachine) {
  std::vector<std::thread> threads;
  std::vector<int> results(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t, &results] {
      const Stream stream;
      const Array<int> a(50), b(50);
      fill_all(a, 50, 1, stream);
      fill_all(b, 50, 0, stream);
      for (int i = 0; i < 20; ++i) {
        launch(add, dim3(2), dim3(32), 0, stream, a.data, b.data, 50);
        if (i % 5 == t) cudaStreamSynchronize(stream);
      }
      cudaStreamSynchronize(stream);
      results[static_cast<size_t>(t)] = fetch<int>(b, 50)[49];
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(results, std::vector<int>(4, 20));
}

// ---- capture

TEST(CudaEmulator, AGraphReplaysWithItsForks) {
  constexpr int kN = 40;
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    start(seed);
    const Stream stream, side;
    const Event fork, join;
    const Array<int> a(kN), b(kN);
    int* pinned = nullptr;
    ENS_OK(cudaMallocHost(reinterpret_cast<void**>(&pinned), kN * 4));
    ENS_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    ENS_OK(cudaMemcpyAsync(a, pinned, kN * 4, cudaMemcpyHostToDevice, stream));
    ENS_OK(cudaEventRecord(fork, stream));
    ENS_OK(cudaStreamWaitEvent(side, fork, 0));
    int value = 100;
    ENS_OK(fill_all(b, kN, value, side));
    value = 7;  // the argument was copied
    ENS_OK(launch(add, dim3(2), dim3(32), 0, side, a.data, b.data, kN));
    ENS_OK(cudaEventRecord(join, side));
    ENS_OK(cudaStreamWaitEvent(stream, join, 0));
    ENS_OK(launch(add, dim3(2), dim3(32), 0, stream, b.data, a.data, kN));
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    ENS_OK(cudaStreamEndCapture(stream, &graph));
    ENS_OK(cudaGraphInstantiate(&exec, graph, 0));
    ENS_OK(cudaGraphDestroy(graph));
    for (int round = 0; round < 3; ++round) {
      std::fill(pinned, pinned + kN, round);
      ENS_OK(cudaGraphLaunch(exec, stream));
      ENS_OK(cudaStreamSynchronize(stream));
      EXPECT_EQ(fetch<int>(a, kN), std::vector<int>(kN, 100 + 2 * round));
    }
    ENS_OK(cudaGraphExecDestroy(exec));
    ENS_OK(cudaFreeHost(pinned));
  }
}

TEST(CudaEmulator, CapturesForbidWhatTheRealOnesForbid) {
  const Array<int> p(1);
  cudaGraph_t graph = nullptr;
  const auto spoilt_by = [&](const std::function<cudaError_t(cudaStream_t)>& call) {
    const Stream stream;
    EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
    EXPECT_EQ(fill_all(p, 1, 1, stream), cudaSuccess);
    const cudaError_t error = call(stream);
    EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(graph, nullptr);
    cudaGetLastError();
    return error;
  };
  EXPECT_EQ(spoilt_by([](cudaStream_t s) { return cudaStreamSynchronize(s); }),
            cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(spoilt_by([](cudaStream_t) { return cudaDeviceSynchronize(); }),
            cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(spoilt_by([](cudaStream_t) {
              void* memory = nullptr;
              return cudaMalloc(&memory, 4);
            }),
            cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(spoilt_by([&](cudaStream_t s) {
              int value = 1;
              return cudaMemcpyAsync(p, &value, 4, cudaMemcpyHostToDevice, s);
            }),
            cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(spoilt_by([&](cudaStream_t s) {
              const Stream other;
              const Event event;
              fill_all(p, 1, 1, other);
              cudaEventRecord(event, other);
              return cudaStreamWaitEvent(s, event, 0);
            }),
            cudaErrorStreamCaptureIsolation);
}

TEST(CudaEmulator, AForkMustBeJoined) {
  const Array<int> p(1);
  const Stream stream, side;
  const Event fork;
  cudaGraph_t graph = nullptr;
  ENS_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  ENS_OK(cudaEventRecord(fork, stream));
  ENS_OK(cudaStreamWaitEvent(side, fork, 0));
  ENS_OK(fill_all(p, 1, 1, side));
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureUnjoined);
  cudaGetLastError();
}

TEST(CudaEmulator, AnotherThreadMayAllocateDuringAThreadLocalCapture) {
  const Stream stream;
  cudaGraph_t graph = nullptr;
  ENS_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  std::thread([] { const Array<int> p(10); }).join();
  ENS_OK(cudaStreamEndCapture(stream, &graph));
  ENS_OK(cudaGraphDestroy(graph));
}

// ---- libraries

void share_a_workspace() {
  const Stream streams[2];
  const Array<char> workspace(4096);
  const Array<float> a(4), c(8);
  const float one = 1, zero = 0;
  for (int i = 0; i < 2; ++i) {
    cublasHandle_t handle = nullptr;
    cublasCreate(&handle);
    cublasSetStream(handle, streams[i]);
    cublasSetWorkspace(handle, workspace, 4096);
    cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, a, CUDA_R_32F, 2, a, CUDA_R_32F,
                 2, &zero, c + 4 * i, CUDA_R_32F, 2, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    cublasDestroy(handle);
  }
  cudaDeviceSynchronize();
}

TEST(CudaEmulatorDeathTest, AWorkspaceIsForOneStream) {
  EXPECT_DEATH(
      for (uint64_t seed = 1; seed <= 40; ++seed) {
        start(seed);
        share_a_workspace();
      },
      "cublasGemmEx: its workspace was written by other work");
}

}  // namespace
}  // namespace ens::emulator
