// SPDX-License-Identifier: Apache-2.0
// What the kernels share: elements of any dtype as float, vectors of elements, and grid sizes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "base/error.h"
#include "nn/core/dtype.h"
#include "nn/core/tensor.h"
#include "nn/cuda/context.h"
#include "nn/cuda/launch.h"

namespace ens::cuda {

using Fp8 = __nv_fp8_e4m3;

__device__ inline float load(float v) { return v; }
__device__ inline float load(__half v) { return __half2float(v); }
__device__ inline float load(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline float load(Fp8 v) { return static_cast<float>(v); }
__device__ inline float load(uint8_t v) { return static_cast<float>(v); }
__device__ inline float load(int8_t v) { return static_cast<float>(v); }
__device__ inline float load(int32_t v) { return static_cast<float>(v); }

// Rounds to nearest even; float8 and integers saturate, NaN becomes 0 in the latter.
__device__ inline void store(float* p, float v) { *p = v; }
__device__ inline void store(__half* p, float v) { *p = __float2half_rn(v); }
__device__ inline void store(__nv_bfloat16* p, float v) { *p = __float2bfloat16_rn(v); }
__device__ inline void store(Fp8* p, float v) { *p = Fp8(v); }
__device__ inline float rounded(float v, float low, float high) {
  return v == v ? fminf(fmaxf(rintf(v), low), high) : 0.0f;
}
__device__ inline void store(uint8_t* p, float v) {
  *p = static_cast<uint8_t>(rounded(v, 0.0f, 255.0f));
}
__device__ inline void store(int8_t* p, float v) {
  *p = static_cast<int8_t>(rounded(v, -128.0f, 127.0f));
}
__device__ inline void store(int32_t* p, float v) {
  // The largest float below 2^31 is 2147483520.
  *p = v >= 2147483648.0f ? 2147483647
                          : static_cast<int32_t>(rounded(v, -2147483648.0f, 2147483520.0f));
}

// N neighbouring elements that are read and written by one instruction.
template <typename T, int N>
struct alignas(sizeof(T) * N) Vec {
  T v[N];
};
// The number of elements in 16 bytes, the widest access.
template <typename T>
constexpr int kVec = 16 / static_cast<int>(sizeof(T));

inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Kernels over n items take item i, i + stride, ...: this many blocks of kThreads.
constexpr int kThreads = 256;
inline dim3 blocks_for(int64_t n) {
  return dim3(
      static_cast<unsigned>(std::clamp<int64_t>((n + kThreads - 1) / kThreads, 1, 1 << 16)));
}
__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline int64_t item_stride() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

// Division by a number that the compiler does not know, by multiplication: the kernel's time is
// otherwise the divisions'. Right for 0 <= i with i * by < 2^32.
struct Divisor {
  unsigned by, factor;
  __host__ __device__ explicit Divisor(int by_)
      : by(static_cast<unsigned>(by_)), factor(0xffffffffu / by + 1) {}
  __device__ int quotient(int i) const {
    const auto wide = static_cast<uint64_t>(static_cast<unsigned>(i)) * factor;
    return by == 1 ? i : static_cast<int>(wide >> 32);
  }
};

// Over the lanes of a whole warp, for each of them.
__device__ inline float warp_max(float v) {
  for (int o = 16; o > 0; o /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}
__device__ inline float warp_sum(float v) {
  for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

// Whether this is the last of `all` blocks to get here, which then sees what the others have
// written before. The counter is 0 before the first and after the last of them. For all threads of
// a block, `first` being true for one.
__device__ inline bool is_last_block(int32_t* counter, int all, bool first) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (first) {
    last = atomicAdd(counter, 1) == all - 1;
    if (last) *counter = 0;
  }
  __syncthreads();
  if (last) __threadfence();
  return last;
}

// f(T{}) with the CUDA type of an activation's dtype.
template <typename F>
void with_activation(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::kF32:
      return f(float{});
    case Dtype::kBF16:
      return f(__nv_bfloat16{});
    case Dtype::kF16:
      return f(__half{});
    default:
      fail(std::string("activations cannot be ") + name(dtype), "CUDA");
  }
}

// f(N), an integral_constant, with the vector length that n elements at these addresses allow.
template <typename T, typename F, typename... P>
void with_vec(int64_t n, F&& f, const P*... at) {
  if (n % kVec<T> == 0 && (aligned(at) && ...)) {
    f(std::integral_constant<int, kVec<T>>{});
  } else {
    f(std::integral_constant<int, 1>{});
  }
}

// Whether plain and channels-last memory are the same.
inline bool layouts_coincide(const Shape& s) {
  return s.rank() != 4 || s[1] == 1 || s[2] * s[3] == 1;
}

// t in this dtype and layout; itself if it is so already.
inline Tensor as(const Tensor& t, Dtype dtype, Layout layout) {
  if (t.dtype() == dtype && t.layout() == layout) return t;
  Tensor r = Tensor::empty(t.shape(), dtype, t.device(), layout);
  r.copy_from(t);
  return r;
}

// Images as [rows][channels]; matrices are that already.
inline Tensor channels_inner(const Tensor& t) {
  return t.rank() == 4 ? t.with_layout(Layout::kChannelsLast) : t;
}

}  // namespace ens::cuda
