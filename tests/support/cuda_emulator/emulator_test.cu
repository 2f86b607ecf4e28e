// SPDX-License-Identifier: Apache-2.0
// Does the emulator see what it is there to see? Programs with a mistake in them, and without.
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cudnn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/cuda_emulator/emulator.h"
#include "tests/support/cuda_emulator/launch.h"
#include "tests/support/cuda_emulator/libraries.h"

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

__global__ void some_wait(int* p) {
  if (threadIdx.x > 0) grid_dependency_sync();
  p[threadIdx.x] = 1;
}

__global__ void count_up(int* p) {
  grid_dependency_sync();
  ++p[threadIdx.x];
}

TEST(CudaEmulatorDeathTest, LaunchedAsADependentWithoutWaiting) {
  const auto first_then_dependent = [](void (*first)(int*), void (*dependent)(int*)) {
    const Array<int> p(32);
    launch(first, dim3(1), dim3(32), 0, nullptr, p);
    launch_as(true, dependent, dim3(1), dim3(32), 0, nullptr, p);
    return cudaDeviceSynchronize();
  };
  EXPECT_EQ(first_then_dependent(count_up, count_up), cudaSuccess);
  EXPECT_DEATH(first_then_dependent(count_up, some_wait),
               "not all of its threads call grid_dependency_sync");
  EXPECT_DEATH(first_then_dependent(some_wait, count_up), "behind does not wait itself");
}

TEST(CudaEmulator, RefusesImpossibleLaunches) {
  const Array<int> p(1);
  EXPECT_EQ(launch(fill, dim3(1), dim3(1025), 0, nullptr, p, 1, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(fill, dim3(0), dim3(32), 0, nullptr, p, 1, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(fill, dim3(1), dim3(32), 49 << 10, nullptr, p, 1, 0), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

__global__ void reverse_block(int* p) {
  int* const shared = reinterpret_cast<int*>(dynamic_shared());
  shared[threadIdx.x] = p[threadIdx.x];
  __syncthreads();
  p[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

TEST(CudaEmulator, DynamicSharedMemory) {
  std::vector<int> x = numbers(64);
  const Array<int> p(64);
  ENS_OK(cudaMemcpy(p, x.data(), 256, cudaMemcpyHostToDevice));
  ENS_OK(launch(reverse_block, dim3(1), dim3(64), 256, nullptr, p));
  std::ranges::reverse(x);
  EXPECT_EQ(fetch<int>(p, 64), x);
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

TEST(CudaEmulatorDeathTest, KernelsGetTheSharedMemoryTheyAskFor) {
  EXPECT_DEATH(
      {
        const Array<int> p(64);
        launch(reverse_block, dim3(1), dim3(64), 252, nullptr, p);
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

__global__ void asks_before_it_waits(const int* x, int* y) {
  __shared__ int numbers[32];
  copy_later(&numbers[threadIdx.x], x + threadIdx.x, 4, 0);
  grid_dependency_sync();
  commit_copies();
  wait_for_copies(0);
  y[threadIdx.x] = numbers[threadIdx.x];
}

TEST(CudaEmulatorDeathTest, AsksEarlyForWhatIsNotThereYet) {
  // y = x, recorded behind a kernel that changes x or something else.
  const auto copy_behind = [](bool same) {
    const Array<int> x(32), y(32), other(32);
    const Stream stream;
    ENS_OK(fill_all(x, 32, 3, stream));
    ENS_OK(fill_all(other, 32, 5, stream));
    ENS_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    ENS_OK(launch(count_up, dim3(1), dim3(32), 0, stream, same ? x : other));
    ENS_OK(launch_as(true, asks_before_it_waits, dim3(1), dim3(32), 0, stream, x, y));
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    ENS_OK(cudaStreamEndCapture(stream, &graph));
    ENS_OK(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 2; ++i) ENS_OK(cudaGraphLaunch(exec, stream));
    ENS_OK(cudaStreamSynchronize(stream));
    EXPECT_EQ(fetch<int>(y, 32), std::vector<int>(32, 3));
  };
  copy_behind(false);
  EXPECT_DEATH(copy_behind(true), "has asked before grid_dependency_sync");
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

// Numbers of any type, on the device.
struct Numbers {
  Numbers(cudaDataType_t t, const std::vector<float>& values)
      : type(t), count(values.size()), data(count * bytes_of(t)) {
    std::vector<char> host(count * bytes_of(t));
    for (size_t i = 0; i < count; ++i) {
      store(host.data(), type, static_cast<int64_t>(i), values[i]);
    }
    cudaMemcpy(data, host.data(), host.size(), cudaMemcpyHostToDevice);
  }
  std::vector<float> fetched() const {
    const std::vector<char> host = fetch<char>(data, count * bytes_of(type));
    std::vector<float> values(count);
    for (size_t i = 0; i < count; ++i) {
      values[i] = load(host.data(), type, static_cast<int64_t>(i));
    }
    return values;
  }

  cudaDataType_t type;
  size_t count;
  Array<char> data;
};

// As they are when they have been stored as `type`: between -1 and 1, times `scale`.
std::vector<float> some_numbers(int64_t n, uint64_t seed, cudaDataType_t type = CUDA_R_32F,
                                float scale = 1) {
  std::vector<float> v;
  uint64_t state = seed;
  for (int64_t i = 0; i < n; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    float value = scale * (static_cast<float>(state >> 40) / (1 << 23) - 1);
    store(&value, type, 0, value);
    v.push_back(load(&value, type, 0));
  }
  return v;
}

void expect_near(const std::vector<float>& got, const std::vector<float>& want, float tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], tolerance) << i;
}

TEST(CudaEmulator, Float8IsRoundedAndSaturates) {
  uint8_t byte = 0;
  const auto stored = [&](float value) {
    store(&byte, CUDA_R_8F_E4M3, 0, value);
    return load(&byte, CUDA_R_8F_E4M3, 0);
  };
  EXPECT_EQ(stored(1.0f), 1.0f);
  EXPECT_EQ(stored(1.07f), 1.125f);
  EXPECT_EQ(stored(-1e9f), -448.0f);
  EXPECT_EQ(stored(INFINITY), 448.0f);
  EXPECT_TRUE(std::isnan(stored(NAN)));
}

// ---- cuDNN's graphs

using Sizes = std::array<int64_t, 4>;
using Strides = Sizes;

int64_t numel(const Sizes& s) { return s[0] * s[1] * s[2] * s[3]; }
Strides nhwc(const Sizes& s) { return {s[1] * s[2] * s[3], 1, s[3] * s[1], s[1]}; }
Strides nchw(const Sizes& s) { return {s[1] * s[2] * s[3], s[2] * s[3], s[3], 1}; }

struct Geometry {
  Sizes x{}, w{}, y{};
  int64_t pad = 0, stride = 1, dilation = 1;
  Strides (*order)(const Sizes&) = nhwc;

  // Calls f(index in x, in w, in y) for every product.
  template <typename F>
  void for_products(F f) const {
    const auto at = [&](const Sizes& s, int64_t n, int64_t c, int64_t i, int64_t j) {
      const Strides by = order(s);
      return static_cast<size_t>(n * by[0] + c * by[1] + i * by[2] + j * by[3]);
    };
    const int64_t groups = x[1] / w[1];
    for (int64_t n = 0; n < y[0]; ++n)
      for (int64_t k = 0; k < y[1]; ++k)
        for (int64_t i = 0; i < y[2]; ++i)
          for (int64_t j = 0; j < y[3]; ++j)
            for (int64_t c = 0; c < w[1]; ++c)
              for (int64_t r = 0; r < w[2]; ++r)
                for (int64_t s = 0; s < w[3]; ++s) {
                  const int64_t h = i * stride - pad + r * dilation;
                  const int64_t v = j * stride - pad + s * dilation;
                  if (h < 0 || h >= x[2] || v < 0 || v >= x[3]) continue;
                  const int64_t channel = k / (w[0] / groups) * w[1] + c;
                  f(at(x, n, channel, h, v), at(w, k, c, r, s), at(y, n, k, i, j));
                }
  }
};

// Two groups, and nothing of the sizes equal to another.
constexpr Geometry kGeometry{{2, 6, 9, 10}, {4, 3, 3, 2}, {2, 4, 4, 5}, 1, 2, 2};

class Described {
 public:
  explicit Described(cudnnBackendDescriptorType_t type) {
    EXPECT_EQ(cudnnBackendCreateDescriptor(type, &d_), CUDNN_STATUS_SUCCESS);
  }
  ~Described() { cudnnBackendDestroyDescriptor(d_); }
  Described(Described&& other) noexcept : d_(std::exchange(other.d_, nullptr)) {}
  operator cudnnBackendDescriptor_t() const { return d_; }

  template <typename T>
  cudnnStatus_t set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                    const std::vector<T>& values) {
    return cudnnBackendSetAttribute(d_, name, type, static_cast<int64_t>(values.size()),
                                    values.data());
  }
  cudnnStatus_t set(cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t part) {
    return set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, std::vector{part});
  }
  cudnnStatus_t finalize() { return cudnnBackendFinalize(d_); }
  // Of a descriptor to be filled, `value` is its name.
  template <typename T>
  T get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, T value = {}) const {
    int64_t count = 0;
    EXPECT_EQ(cudnnBackendGetAttribute(d_, name, type, 1, &count, &value), CUDNN_STATUS_SUCCESS);
    EXPECT_EQ(count, 1);
    return value;
  }

 private:
  cudnnBackendDescriptor_t d_ = nullptr;
};

Described tensor(char id, const Sizes& sizes, const Strides& strides, cudnnDataType_t type,
                 bool inside = false) {
  Described d(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  d.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, std::vector{type});
  d.set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, std::vector(sizes.begin(), sizes.end()));
  d.set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, std::vector(strides.begin(), strides.end()));
  d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, std::vector{int64_t{id}});
  d.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, std::vector<int64_t>{16});
  cudnnBackendSetAttribute(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &inside);
  EXPECT_EQ(d.finalize(), CUDNN_STATUS_SUCCESS);
  return d;
}

Described geometry(const Geometry& g) {
  Described d(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  d.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, std::vector{CUDNN_DATA_FLOAT});
  d.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE,
        std::vector{CUDNN_CROSS_CORRELATION});
  d.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, std::vector<int64_t>{2});
  d.set(CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, std::vector(2, g.dilation));
  d.set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, std::vector(2, g.stride));
  d.set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, std::vector(2, g.pad));
  d.set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, std::vector(2, g.pad));
  EXPECT_EQ(d.finalize(), CUDNN_STATUS_SUCCESS);
  return d;
}

enum class Computes { kY, kX, kW };

// Not finalised.
Described convolution(Computes what, const Geometry& g, const Described& x, const Described& w,
                      const Described& y) {
  struct Names {
    cudnnBackendDescriptorType_t type;
    cudnnBackendAttributeName_t geometry, x, w, y;
  };
  static const std::map<Computes, Names> all{
      {Computes::kY,
       {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y}},
      {Computes::kX,
       {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
        CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
        CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
        CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY}},
      {Computes::kW,
       {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
        CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
        CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
        CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
        CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY}}};
  const Names& names = all.at(what);
  Described d(names.type);
  d.set(names.geometry, geometry(g));  // may go, as cuDNN keeps what it needs
  d.set(names.x, x);
  d.set(names.w, w);
  d.set(names.y, y);
  return d;
}

Described pointwise(cudnnPointwiseMode_t mode, const Described& x, const Described* b,
                    const Described& y) {
  Described what(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  what.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, std::vector{mode});
  what.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, std::vector{CUDNN_DATA_FLOAT});
  EXPECT_EQ(what.finalize(), CUDNN_STATUS_SUCCESS);
  Described d(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  d.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, what);
  d.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
  if (b) d.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, *b);
  d.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
  EXPECT_EQ(d.finalize(), CUDNN_STATUS_SUCCESS);
  return d;
}

class CudnnGraphs : public testing::Test {
 protected:
  CudnnGraphs() {
    start(1);
    cudnnCreate(&handle_);
    cudnnSetStream(handle_, stream_);
  }
  ~CudnnGraphs() override { cudnnDestroy(handle_); }

  // What cuDNN suggests for a graph. `fused` names what follows the convolution, by the first
  // letters of scale, z, bias and ReLU.
  std::vector<Described> configs(Computes what, const Geometry& g, cudnnDataType_t type,
                                 const std::string& fused = "",
                                 cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A,
                                 cudnnDataType_t result = CUDNN_DATA_FLOAT) {
    if (type != CUDNN_DATA_FP8_E4M3) result = type;
    const Sizes by_channel{1, g.y[1], 1, 1};
    const Described x = tensor('x', g.x, g.order(g.x), type),
                    w = tensor('w', g.w, g.order(g.w), type),
                    scale = tensor('s', by_channel, nhwc(by_channel), CUDNN_DATA_FLOAT),
                    z = tensor('z', g.y, g.order(g.y), result),
                    bias = tensor('b', by_channel, nhwc(by_channel), result);
    std::vector<Described> between, operations;
    for (size_t i = 0; i <= fused.size(); ++i) {
      const bool last = i == fused.size();
      between.push_back(tensor(last ? 'y' : static_cast<char>('0' + i), g.y, g.order(g.y),
                               last ? result : CUDNN_DATA_FLOAT, !last));
    }
    operations.push_back(convolution(what, g, x, w, between[0]));
    EXPECT_EQ(operations[0].finalize(), CUDNN_STATUS_SUCCESS);
    for (size_t i = 0; i < fused.size(); ++i) {
      const char op = fused[i];
      operations.push_back(pointwise(op == 's'   ? CUDNN_POINTWISE_MUL
                                     : op == 'R' ? CUDNN_POINTWISE_RELU_FWD
                                                 : CUDNN_POINTWISE_ADD,
                                     between[i],
                                     op == 's'   ? &scale
                                     : op == 'z' ? &z
                                     : op == 'b' ? &bias
                                                 : nullptr,
                                     between[i + 1]));
    }
    Described graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, std::vector{handle_});
    graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
              std::vector<cudnnBackendDescriptor_t>(operations.begin(), operations.end()));
    EXPECT_EQ(graph.finalize(), CUDNN_STATUS_SUCCESS);
    Described heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, std::vector{mode});
    EXPECT_EQ(heuristics.finalize(), CUDNN_STATUS_SUCCESS);
    int64_t count = -1;
    const auto get = [&](int64_t wanted, void* handles) {
      EXPECT_EQ(cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                         CUDNN_TYPE_BACKEND_DESCRIPTOR, wanted, &count, handles),
                CUDNN_STATUS_SUCCESS);
    };
    get(0, nullptr);
    std::vector<Described> found;
    for (int64_t i = 0; i < count; ++i) found.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    std::vector<cudnnBackendDescriptor_t> handles(found.begin(), found.end());
    if (count > 0) get(count, handles.data());
    EXPECT_EQ(static_cast<size_t>(count), found.size());
    return found;
  }

  Described plan(const Described& config) {
    Described d(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    d.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, std::vector{handle_});
    d.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    EXPECT_EQ(d.finalize(), CUDNN_STATUS_SUCCESS);
    return d;
  }

  // Returns at once. `workspace_` has to be large enough.
  cudnnStatus_t execute(const Described& plan, const std::map<char, void*>& operands,
                        bool with_workspace = true) {
    std::vector<int64_t> ids;
    std::vector<void*> pointers;
    for (const auto& [id, data] : operands) {
      ids.push_back(id);
      pointers.push_back(data);
    }
    Described pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, ids);
    pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, pointers);
    if (with_workspace) {
      pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR,
               std::vector<void*>{workspace_.data});
    }
    EXPECT_EQ(pack.finalize(), CUDNN_STATUS_SUCCESS);
    return cudnnBackendExecute(handle_, plan, pack);
  }

  static std::vector<cudnnBackendNumericalNote_t> notes(const Described& config) {
    const Described engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    config.get<cudnnBackendDescriptor_t>(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                         engine);
    std::vector<cudnnBackendNumericalNote_t> v(CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
    int64_t count = 0;
    cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                             CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count, v.data());
    v.resize(static_cast<size_t>(count));
    return v;
  }

  Stream stream_;
  cudnnHandle_t handle_ = nullptr;
  Array<char> workspace_{4096};
};
using CudnnGraphsDeathTest = CudnnGraphs;

TEST_F(CudnnGraphs, EnginesSayWhatTheyAre) {
  const auto offered = configs(Computes::kY, kGeometry, CUDNN_DATA_FLOAT);
  ASSERT_EQ(offered.size(), 3u);
  using Notes = std::vector<cudnnBackendNumericalNote_t>;
  EXPECT_EQ(notes(offered[0]), Notes{CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC});
  EXPECT_EQ(notes(offered[1]), Notes{CUDNN_NUMERICAL_NOTE_TENSOR_CORE});
  EXPECT_EQ(notes(offered[2]), Notes{});
  const auto last_resort =
      configs(Computes::kY, kGeometry, CUDNN_DATA_FLOAT, "", CUDNN_HEUR_MODE_FALLBACK);
  ASSERT_EQ(last_resort.size(), 1u);
  EXPECT_EQ(notes(last_resort[0]), Notes{});
  const auto workspace = [&](const Described& config) {
    return plan(config).get<int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64);
  };
  EXPECT_GT(workspace(offered[2]), 0);
  EXPECT_EQ(workspace(last_resort[0]), 0);
}

TEST_F(CudnnGraphs, ForwardWithAllThatCanBeFused) {
  const Geometry& g = kGeometry;
  const auto x = some_numbers(numel(g.x), 1), w = some_numbers(numel(g.w), 2),
             z = some_numbers(numel(g.y), 3), bias = some_numbers(g.y[1], 4),
             scale = some_numbers(g.y[1], 5);
  const auto wanted = [&](bool tf32) {
    std::vector<float> y(static_cast<size_t>(numel(g.y)));
    const auto seen = [&](float v) { return tf32 ? to_tf32(v) : v; };
    g.for_products([&](size_t i, size_t j, size_t k) { y[k] += seen(x[i]) * seen(w[j]); });
    for (size_t i = 0; i < y.size(); ++i) {  // channels last
      const size_t k = i % static_cast<size_t>(g.y[1]);
      y[i] = std::max(0.0f, y[i] * scale[k] + z[i] + bias[k]);
    }
    return y;
  };
  const Numbers on_x(CUDA_R_32F, x), on_w(CUDA_R_32F, w), on_z(CUDA_R_32F, z),
      on_bias(CUDA_R_32F, bias), on_scale(CUDA_R_32F, scale);
  for (const auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    for (const Described& config : configs(Computes::kY, g, CUDNN_DATA_FLOAT, "szbR", mode)) {
      const Numbers y(CUDA_R_32F, z);
      ASSERT_EQ(execute(plan(config), {{'x', on_x.data},
                                       {'w', on_w.data},
                                       {'y', y.data},
                                       {'z', on_z.data},
                                       {'b', on_bias.data},
                                       {'s', on_scale.data}}),
                CUDNN_STATUS_SUCCESS);
      ENS_OK(cudaStreamSynchronize(stream_));
      const auto n = notes(config);
      const bool tf32 = n == std::vector{CUDNN_NUMERICAL_NOTE_TENSOR_CORE};
      expect_near(y.fetched(), wanted(tf32), 2e-6f);
    }
  }
}

TEST_F(CudnnGraphs, Gradients) {
  for (const auto order : {nhwc, nchw}) {
    Geometry g = kGeometry;
    g.order = order;
    const auto x = some_numbers(numel(g.x), 1), w = some_numbers(numel(g.w), 2),
               y = some_numbers(numel(g.y), 3);
    std::vector<float> dx(x.size()), dw(w.size());
    g.for_products([&](size_t i, size_t j, size_t k) {
      dx[i] += w[j] * y[k];
      dw[j] += x[i] * y[k];
    });
    const Numbers on_x(CUDA_R_32F, x), on_w(CUDA_R_32F, w), on_y(CUDA_R_32F, y);
    const auto computed = [&](Computes what, char id, const std::vector<float>& size) {
      const Numbers result(CUDA_R_32F, size);
      std::map<char, void*> operands{{'x', on_x.data}, {'w', on_w.data}, {'y', on_y.data}};
      operands[id] = result.data;
      const auto offered = configs(what, g, CUDNN_DATA_FLOAT);
      EXPECT_EQ(execute(plan(offered.at(2)), operands), CUDNN_STATUS_SUCCESS);
      EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
      return result.fetched();
    };
    expect_near(computed(Computes::kX, 'x', x), dx, 5e-6f);
    expect_near(computed(Computes::kW, 'w', w), dw, 5e-6f);
  }
}

TEST_F(CudnnGraphs, Fp8) {
  constexpr auto kFp8 = CUDA_R_8F_E4M3, kHalf = CUDA_R_16F;
  const Geometry g{{2, 32, 5, 5}, {16, 32, 3, 3}, {2, 16, 5, 5}, 1};
  const auto x = some_numbers(numel(g.x), 1, kFp8, 400), w = some_numbers(numel(g.w), 2, kFp8),
             scale = some_numbers(16, 3), bias = some_numbers(16, 4, kHalf);
  std::vector<float> want(static_cast<size_t>(numel(g.y)));
  g.for_products([&](size_t i, size_t j, size_t k) { want[k] += x[i] * w[j]; });
  for (size_t i = 0; i < want.size(); ++i) want[i] = want[i] * scale[i % 16] + bias[i % 16];
  const Numbers on_x(kFp8, x), on_w(kFp8, w), on_scale(CUDA_R_32F, scale), on_bias(kHalf, bias),
      y(kHalf, want);
  const auto offered =
      configs(Computes::kY, g, CUDNN_DATA_FP8_E4M3, "sb", CUDNN_HEUR_MODE_A, CUDNN_DATA_HALF);
  ASSERT_EQ(offered.size(), 3u);
  ASSERT_EQ(execute(plan(offered[1]), {{'x', on_x.data},
                                       {'w', on_w.data},
                                       {'s', on_scale.data},
                                       {'b', on_bias.data},
                                       {'y', y.data}}),
            CUDNN_STATUS_SUCCESS);
  ENS_OK(cudaStreamSynchronize(stream_));
  const auto got = y.fetched();
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], 1e-3f * std::abs(want[i]) + 1e-2f) << i;
  }
}

// The real one has no engines for them.
TEST_F(CudnnGraphs, WhatCannotBeFused) {
  const auto count = [&](const Geometry& g, cudnnDataType_t type, const std::string& fused,
                         Computes what = Computes::kY) {
    return configs(what, g, type, fused).size();
  };
  for (const auto type : {CUDNN_DATA_FLOAT, CUDNN_DATA_HALF, CUDNN_DATA_BFLOAT16}) {
    for (const char* fused : {"", "z", "b", "R", "zb", "zR", "bR", "szbR"}) {
      EXPECT_EQ(count(kGeometry, type, fused), 3u) << fused;
    }
    for (const char* fused : {"bz", "Rb", "zs", "RR", "bs", "zbz"}) {
      EXPECT_EQ(count(kGeometry, type, fused), 0u) << fused;
    }
  }
  const Geometry wide{{2, 32, 5, 5}, {16, 32, 3, 3}, {2, 16, 5, 5}, 1};
  Geometry planes = wide, narrow = wide;
  planes.order = nchw;
  narrow.x[1] = narrow.w[1] = 24;
  constexpr auto kFp8 = CUDNN_DATA_FP8_E4M3;
  EXPECT_EQ(count(wide, kFp8, "sz"), 3u);
  EXPECT_EQ(count(wide, kFp8, "z"), 0u);
  EXPECT_EQ(count(planes, kFp8, "sz"), 0u);
  EXPECT_EQ(count(narrow, kFp8, "sz"), 0u);
  EXPECT_EQ(count(wide, kFp8, "", Computes::kX), 0u);
}

TEST_F(CudnnGraphs, MalformedDescriptors) {
  const auto last_error = [] {
    std::array<char, 200> text;
    cudnnGetLastErrorString(text.data(), text.size());
    return std::string(text.data());
  };
  Described empty(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  EXPECT_EQ(empty.finalize(), CUDNN_STATUS_BAD_PARAM);
  EXPECT_EQ(last_error(), "cudnnBackendFinalize: attribute 901 is missing");
  EXPECT_EQ(last_error(), "");
  EXPECT_EQ(empty.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_FLOAT, std::vector{1.0f}),
            CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE);
  EXPECT_EQ(empty.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, std::vector<int64_t>{1, 2}),
            CUDNN_STATUS_BAD_PARAM);
  const Geometry& g = kGeometry;
  Described x = tensor('x', g.x, nhwc(g.x), CUDNN_DATA_FLOAT);
  const Described w = tensor('w', g.w, nhwc(g.w), CUDNN_DATA_FLOAT);
  EXPECT_EQ(x.finalize(), CUDNN_STATUS_BAD_PARAM);
  EXPECT_EQ(x.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, std::vector<int64_t>{1}),
            CUDNN_STATUS_BAD_PARAM);
  EXPECT_EQ(convolution(Computes::kY, g, x, w, x).finalize(), CUDNN_STATUS_BAD_PARAM);
  EXPECT_EQ(last_error(), "cudnnBackendFinalize: a convolution's sizes do not fit");
  EXPECT_EQ(convolution(Computes::kY, g, x, w, empty).finalize(),
            CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED);
}

TEST_F(CudnnGraphs, APlanNeedsAllItsMemory) {
  const Geometry& g = kGeometry;
  const Array<float> x(1000), w(1000), y(1000);
  const Described p = plan(configs(Computes::kY, g, CUDNN_DATA_FLOAT).at(2));
  EXPECT_EQ(execute(p, {{'x', x.data}, {'w', w.data}}), CUDNN_STATUS_BAD_PARAM);
  EXPECT_EQ(execute(p, {{'x', x.data}, {'w', w.data}, {'y', y.data}}, false),
            CUDNN_STATUS_BAD_PARAM);
}

TEST_F(CudnnGraphs, PlansAreCaptured) {
  const Geometry& g = kGeometry;
  const Numbers x(CUDA_R_32F, some_numbers(numel(g.x), 1)),
      w(CUDA_R_32F, some_numbers(numel(g.w), 2)), y(CUDA_R_32F, some_numbers(numel(g.y), 3));
  const std::map<char, void*> operands{{'x', x.data}, {'w', w.data}, {'y', y.data}};
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  std::vector<float> want;
  {
    const Described p = plan(configs(Computes::kY, g, CUDNN_DATA_FLOAT).at(2));
    ASSERT_EQ(execute(p, operands), CUDNN_STATUS_SUCCESS);
    ENS_OK(cudaStreamSynchronize(stream_));
    want = y.fetched();
    ENS_OK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    ASSERT_EQ(execute(p, operands), CUDNN_STATUS_SUCCESS);
    ENS_OK(cudaStreamEndCapture(stream_, &graph));
    ENS_OK(cudaGraphInstantiate(&exec, graph, 0));
    ENS_OK(cudaGraphDestroy(graph));
  }
  for (int i = 0; i < 2; ++i) {
    ENS_OK(cudaMemsetAsync(y.data, 0, y.count * 4, stream_));
    ENS_OK(cudaGraphLaunch(exec, stream_));
    ENS_OK(cudaStreamSynchronize(stream_));
    EXPECT_EQ(y.fetched(), want);
  }
  ENS_OK(cudaGraphExecDestroy(exec));
}

TEST_F(CudnnGraphsDeathTest, OperandsLieWhereTheySay) {
  const Geometry& g = kGeometry;
  const Described p = plan(configs(Computes::kY, g, CUDNN_DATA_FLOAT).at(2));
  const Array<float> x(static_cast<size_t>(numel(g.x))), w(static_cast<size_t>(numel(g.w))),
      y(static_cast<size_t>(numel(g.y)) - 1);
  EXPECT_DEATH(execute(p, {{'x', x.data}, {'w', w.data}, {'y', y.data + 1}}),
               "id 121 does not lie at a multiple of 16 bytes");
  EXPECT_DEATH(
      {
        execute(p, {{'x', x.data}, {'w', w.data}, {'y', y.data}});
        cudaStreamSynchronize(stream_);
      },
      "cudnnBackendExecute: bytes 0 to 640 of an allocation of 636");
}

TEST_F(CudnnGraphsDeathTest, APlanIsForOneThreadAtATime) {
  const Geometry& g = kGeometry;
  const Described p = plan(configs(Computes::kY, g, CUDNN_DATA_FLOAT).at(2));
  const Array<float> x(1000), w(1000), y(1000);
  EXPECT_DEATH(
      {
        const Lock lock(machine());  // both threads get as far as they get without it
        const auto run = [&] { execute(p, {{'x', x.data}, {'w', w.data}, {'y', y.data}}); };
        std::thread first(run);
        std::thread second(run);
        first.join();
        second.join();
      },
      "a plan is executed by two threads");
}

}  // namespace
}  // namespace ens::emulator
