// SPDX-License-Identifier: Apache-2.0
// What device code finds in the language, for g++. Included before each .cu file (-include); the
// types, the half-precision formats and their conversions are those of NVIDIA's own headers.
#pragma once

#include <cuda_runtime.h>
// First the runtime, then:
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

// Blocks run one after another, so what a block shares is a static variable. It keeps the values of
// the block before: a kernel must not count on them.
#undef __shared__
#define __shared__ static
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace ens::emulator {

struct Exchange {
  uint64_t values[32];  // by lane; all bits set where no thread took part
  unsigned present;
};
// Waits for the lanes in `mask`; what each of them gave. Read it before the next exchange.
const Exchange& exchange(unsigned mask, uint64_t value);
int wait_at_barrier(bool vote);  // the number of votes
int current_lane();
// Copies of the calling thread (cuda_pipeline.h): done when all but `left` committed groups have to
// be.
void copy_later(void* shared, const void* global, size_t bytes, size_t zeros);
void commit_copies();
void wait_for_copies(size_t left);

template <typename T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <typename T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
// The value of lane `source` within the caller's section of `width` lanes; `otherwise` if it lies
// outside.
template <typename T>
T shuffle(unsigned mask, T value, int source, int width) {
  const int lane = current_lane(), section = lane / width * width;
  const Exchange& all = exchange(mask, to_bits(value));
  if (source < section || source >= section + width) return value;
  return from_bits<T>(all.values[source]);
}

}  // namespace ens::emulator

// ---- barriers and warps
inline void __syncthreads() { ens::emulator::wait_at_barrier(false); }
inline int __syncthreads_count(int p) { return ens::emulator::wait_at_barrier(p != 0); }
inline int __syncthreads_or(int p) { return ens::emulator::wait_at_barrier(p != 0) > 0; }
inline int __syncthreads_and(int p) { return ens::emulator::wait_at_barrier(p == 0) == 0; }
inline void __syncwarp(unsigned mask = ~0u) { ens::emulator::exchange(mask, 0); }

template <typename T>
T __shfl_sync(unsigned mask, T v, int source, int width = 32) {
  const int section = ens::emulator::current_lane() / width * width;
  return ens::emulator::shuffle(mask, v, section + (source & (width - 1)), width);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  return ens::emulator::shuffle(mask, v, ens::emulator::current_lane() - static_cast<int>(delta),
                                width);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  return ens::emulator::shuffle(mask, v, ens::emulator::current_lane() + static_cast<int>(delta),
                                width);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32) {
  return ens::emulator::shuffle(mask, v, ens::emulator::current_lane() ^ with, width);
}
inline unsigned __ballot_sync(unsigned mask, int p) {
  const ens::emulator::Exchange& all = ens::emulator::exchange(mask, p != 0);
  unsigned votes = 0;
  for (unsigned i = 0; i < 32; ++i) {
    if (all.present >> i & 1 && all.values[i]) votes |= 1u << i;
  }
  return votes;
}
inline int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
inline int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, !p) == 0; }
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- atomics: one thread runs at a time
template <typename T>
T atomicAdd(T* p, std::type_identity_t<T> v) {
  const T old = *p;
  *p = old + v;
  return old;
}
template <typename T>
T atomicMax(T* p, std::type_identity_t<T> v) {
  const T old = *p;
  *p = std::max(old, v);
  return old;
}
template <typename T>
T atomicMin(T* p, std::type_identity_t<T> v) {
  const T old = *p;
  *p = std::min(old, v);
  return old;
}
template <typename T>
T atomicExch(T* p, std::type_identity_t<T> v) {
  const T old = *p;
  *p = v;
  return old;
}
template <typename T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  const T old = *p;
  if (old == expected) *p = v;
  return old;
}
inline unsigned atomicInc(unsigned* p, unsigned limit) {
  const unsigned old = *p;
  *p = old >= limit ? 0 : old + 1;
  return old;
}

// ---- memory
template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
T __ldcs(const T* p) {
  return *p;
}
template <typename T>
T __ldcg(const T* p) {
  return *p;
}
template <typename T>
void __stcs(T* p, std::type_identity_t<T> v) {
  *p = v;
}

// ---- numbers. The fast versions are as exact as the host's.
using std::max;
using std::min;
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frsqrt_rn(float x) { return 1 / std::sqrt(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __saturatef(float x) { return x > 0 ? std::min(x, 1.0f) : 0.0f; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline float sinpif(float x) { return static_cast<float>(std::sin(M_PI * double{x})); }
inline float cospif(float x) { return static_cast<float>(std::cos(M_PI * double{x})); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
// To int: saturating, NaN is 0.
inline int __double2int_of_rounded(double x) {
  return std::isnan(x) ? 0 : static_cast<int>(std::clamp(x, -2147483648.0, 2147483647.0));
}
inline int __float2int_rn(float x) { return __double2int_of_rounded(std::nearbyint(x)); }
inline int __float2int_rz(float x) { return __double2int_of_rounded(std::trunc(x)); }
inline int __float2int_rd(float x) { return __double2int_of_rounded(std::floor(x)); }
inline int __float2int_ru(float x) { return __double2int_of_rounded(std::ceil(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t{a} * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
}
