// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/int8_kernels.h"

#include <cstddef>
#include <utility>

#include "nn/cpu/dnnl_util.h"
#include "nn/cpu/simd.h"

#if defined(__x86_64__) && !defined(ENS_BASELINE)
// GCC 12 sees uninitialised variables in its own header, once that is inlined.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#define ENS_INT8_KERNELS
#endif

namespace ens::cpu {

namespace portable {
namespace {

#define ENS_KERNEL
#define ENS_KERNEL_INLINE inline __attribute__((always_inline))

struct Pairs {
  typedef int32_t Vector __attribute__((vector_size(16)));
  static constexpr int kRows = 1, kDepth = 2;
  static Vector broadcast(int32_t v) { return Vector{v, v, v, v}; }
  static Vector load(const uint32_t* p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(int32_t* p, Vector v) { std::memcpy(p, &v, sizeof v); }
  template <bool>
  static void add_product(Vector& sum, Vector row, Vector column) {
    sum += ((row << 16) >> 16) * ((column << 16) >> 16) + (row >> 16) * (column >> 16);
  }
};

#include "nn/cpu/int8_kernels.inc"

constexpr Int8Kernels kKernels = kernels_of<Pairs>();

#undef ENS_KERNEL
#undef ENS_KERNEL_INLINE
}  // namespace
}  // namespace portable

#ifdef ENS_INT8_KERNELS

namespace avx2 {
namespace {

#define ENS_KERNEL __attribute__((target("avx2")))
#define ENS_KERNEL_INLINE ENS_KERNEL inline __attribute__((always_inline))

struct Pairs {
  using Vector = __m256i;
  static constexpr int kRows = 3, kDepth = 2;
  ENS_KERNEL_INLINE static Vector broadcast(int32_t v) { return _mm256_set1_epi32(v); }
  ENS_KERNEL_INLINE static Vector load(const uint32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  ENS_KERNEL_INLINE static void store(int32_t* p, Vector v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }
  template <bool>
  ENS_KERNEL_INLINE static void add_product(Vector& sum, Vector row, Vector column) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(row, column));
  }
};

#include "nn/cpu/int8_kernels.inc"

constexpr Int8Kernels kKernels = kernels_of<Pairs>();

#undef ENS_KERNEL
#undef ENS_KERNEL_INLINE
}  // namespace
}  // namespace avx2

namespace avx512_vnni {
namespace {

#define ENS_KERNEL __attribute__((target("avx512f,avx512vnni")))
#define ENS_KERNEL_INLINE ENS_KERNEL inline __attribute__((always_inline))

struct Bytes {
  using Vector = __m512i;
  static constexpr int kRows = 14, kDepth = 4;
  ENS_KERNEL_INLINE static Vector broadcast(int32_t v) { return _mm512_set1_epi32(v); }
  ENS_KERNEL_INLINE static Vector load(const uint32_t* p) { return _mm512_loadu_si512(p); }
  ENS_KERNEL_INLINE static void store(int32_t* p, Vector v) { _mm512_storeu_si512(p, v); }
  // In assembly, as in block_kernels.cc.
  template <bool kUnsignedRows>
  ENS_KERNEL_INLINE static void add_product(Vector& sum, Vector row, Vector column) {
    if constexpr (kUnsignedRows) {
      __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(row), "v"(column));
    } else {
      __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(column), "v"(row));
    }
  }
};

#include "nn/cpu/int8_kernels.inc"

constexpr Int8Kernels kKernels = kernels_of<Bytes>();

#undef ENS_KERNEL
#undef ENS_KERNEL_INLINE
}  // namespace
}  // namespace avx512_vnni

#endif

const Int8Kernels& int8_kernels() {
#ifdef ENS_INT8_KERNELS
  if (isa() >= Isa::kAvx512Vnni) return avx512_vnni::kKernels;
  if (isa() >= Isa::kAvx2) return avx2::kKernels;
#endif
  return portable::kKernels;
}

}  // namespace ens::cpu
