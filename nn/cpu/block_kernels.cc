// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/block_kernels.h"

#include <cstddef>
#include <cstring>
#include <utility>

#include "nn/cpu/dnnl_util.h"

#if defined(__x86_64__) && !defined(ENS_BASELINE)
// GCC 12 sees uninitialised variables in its own header, once that is inlined.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#define ENS_BLOCK_KERNELS
#endif

namespace ens::cpu {

#ifdef ENS_BLOCK_KERNELS

// Where a block's elements go: to a place of their own, or as each first or second of two.
enum class Part { kWhole, kFirst, kSecond };

// Sums are added to in assembly, in the register of the sum: left to itself GCC 12 moves sums
// between registers, of which there are too few for that, and takes a third longer.

namespace avx2 {
namespace {

#define ENS_KERNEL __attribute__((target("avx2,fma")))
#define ENS_KERNEL_LAMBDA __attribute__((target("avx2,fma"), always_inline))
#define ENS_KERNEL_INLINE ENS_KERNEL inline __attribute__((always_inline))

struct Vectors {
  using Vector = __m256;
  static constexpr int kLanes = 8, kRows = 6, kTransposedIn = 4;
  ENS_KERNEL_INLINE static Vector zero() { return _mm256_setzero_ps(); }
  ENS_KERNEL_INLINE static Vector load(const float* p) { return _mm256_loadu_ps(p); }
  ENS_KERNEL_INLINE static void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
  template <Part kPart>
  ENS_KERNEL_INLINE static void store_part(float* p, Vector v) {
    store(p, v);
  }
  ENS_KERNEL_INLINE static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  ENS_KERNEL_INLINE static Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
  ENS_KERNEL_INLINE static Vector relu(Vector v) { return _mm256_max_ps(v, zero()); }
  ENS_KERNEL_INLINE static Vector unit(const float* p) { return _mm256_broadcast_ss(p); }
  ENS_KERNEL_INLINE static Vector load_cell(const float* p) { return load(p); }
  ENS_KERNEL_INLINE static void add_product(Vector& sum, Vector a, Vector b) {
    __asm__ volatile("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  }
};

struct Float : Vectors {
  using Activation = float;
  using Weight = float;
  static constexpr int kDepth = 1;
  static constexpr bool kAlternate = false;
  template <int P>
  ENS_KERNEL_INLINE static void load_weights(const float* w, Vector* to) {
    for (int v = 0; v < P; ++v) to[v] = load(w + v * kLanes);
  }
};

// Weights in bfloat16, the upper half of a float32.
struct HalfWeights : Vectors {
  using Activation = float;
  using Weight = BFloat16;
  static constexpr int kDepth = 1;
  static constexpr bool kAlternate = true;
  template <int P>
  ENS_KERNEL_INLINE static void load_weights(const BFloat16* w, Vector* to) {
    if constexpr (P == 2) {
      const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
      to[0] = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
      to[1] = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(-0x10000)));
    } else {
      const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w));
      to[0] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
    }
  }
};

#include "nn/cpu/block_kernels.inc"

constexpr BlockKernels kFloat = kernels_of<Float>(), kHalfWeights = kernels_of<HalfWeights>();

#undef ENS_KERNEL
#undef ENS_KERNEL_LAMBDA
}  // namespace
}  // namespace avx2

namespace avx512 {
namespace {

#define ENS_KERNEL __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define ENS_KERNEL_LAMBDA \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"), always_inline))

struct Vectors {
  using Vector = __m512;
  static constexpr int kLanes = 16, kRows = 14, kTransposedIn = 8;
  ENS_KERNEL_INLINE static Vector zero() { return _mm512_setzero_ps(); }
  ENS_KERNEL_INLINE static Vector load(const float* p) { return _mm512_loadu_ps(p); }
  ENS_KERNEL_INLINE static void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
  template <Part kPart>
  ENS_KERNEL_INLINE static void store_part(float* p, Vector v) {
    store(p, v);
  }
  ENS_KERNEL_INLINE static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  ENS_KERNEL_INLINE static Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
  ENS_KERNEL_INLINE static Vector relu(Vector v) { return _mm512_max_ps(v, zero()); }
  ENS_KERNEL_INLINE static Vector unit(const float* p) { return _mm512_set1_ps(*p); }
  ENS_KERNEL_INLINE static Vector load_cell(const float* p) { return load(p); }
  ENS_KERNEL_INLINE static void add_product(Vector& sum, Vector a, Vector b) {
    __asm__ volatile("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
};

struct Float : Vectors {
  using Activation = float;
  using Weight = float;
  static constexpr int kDepth = 1;
  static constexpr bool kAlternate = false;
  template <int P>
  ENS_KERNEL_INLINE static void load_weights(const float* w, Vector* to) {
    for (int v = 0; v < P; ++v) to[v] = load(w + v * kLanes);
  }
};

struct HalfWeights : Vectors {
  using Activation = float;
  using Weight = BFloat16;
  static constexpr int kDepth = 1;
  static constexpr bool kAlternate = true;
  template <int P>
  ENS_KERNEL_INLINE static void load_weights(const BFloat16* w, Vector* to) {
    if constexpr (P == 2) {
      const __m512i both = _mm512_loadu_si512(w);
      to[0] = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
      to[1] = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(-0x10000)));
    } else {
      const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
      to[0] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    }
  }
};

#include "nn/cpu/block_kernels.inc"

constexpr BlockKernels kFloat = kernels_of<Float>(), kHalfWeights = kernels_of<HalfWeights>();

#undef ENS_KERNEL
#undef ENS_KERNEL_LAMBDA
}  // namespace
}  // namespace avx512

// Everything in bfloat16, sums in float32: each instruction multiplies and adds two neighbours.
namespace avx512_bf16 {
namespace {

#define ENS_KERNEL __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")))
#define ENS_KERNEL_LAMBDA \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma"), always_inline))

struct Half {
  using Vector = __m512;
  using Activation = BFloat16;
  using Weight = BFloat16;
  static constexpr int kLanes = 16, kRows = 14, kTransposedIn = 8, kDepth = 2;
  static constexpr bool kAlternate = false;
  ENS_KERNEL_INLINE static Vector zero() { return _mm512_setzero_ps(); }
  ENS_KERNEL_INLINE static __m512i load_words(const BFloat16* p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  ENS_KERNEL_INLINE static Vector load(const float* p) { return _mm512_loadu_ps(p); }
  ENS_KERNEL_INLINE static Vector load(const BFloat16* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(load_words(p), 16));
  }
  ENS_KERNEL_INLINE static void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
  ENS_KERNEL_INLINE static void store(BFloat16* p, Vector v) {
    const __m256bh half = _mm512_cvtneps_pbh(v);
    __builtin_memcpy(static_cast<void*>(p), &half, sizeof half);
  }
  template <Part kPart>
  ENS_KERNEL_INLINE static void store_part(BFloat16* p, Vector v) {
    if constexpr (kPart == Part::kWhole) {
      store(p, v);
    } else {
      const __m256bh half = _mm512_cvtneps_pbh(v);
      __m256i bits;
      __builtin_memcpy(&bits, &half, sizeof bits);
      __m512i both = _mm512_cvtepu16_epi32(bits);
      if constexpr (kPart == Part::kSecond) {
        both = _mm512_or_si512(_mm512_loadu_si512(p), _mm512_slli_epi32(both, 16));
      }
      _mm512_storeu_si512(p, both);
    }
  }
  ENS_KERNEL_INLINE static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  ENS_KERNEL_INLINE static Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
  ENS_KERNEL_INLINE static Vector relu(Vector v) { return _mm512_max_ps(v, zero()); }
  ENS_KERNEL_INLINE static Vector unit(const BFloat16* p) {
    int both;
    __builtin_memcpy(&both, p, sizeof both);
    return _mm512_castsi512_ps(_mm512_set1_epi32(both));
  }
  ENS_KERNEL_INLINE static Vector load_cell(const BFloat16* p) {
    return _mm512_castsi512_ps(_mm512_loadu_si512(p));
  }
  template <int P>
  ENS_KERNEL_INLINE static void load_weights(const BFloat16* w, Vector* to) {
    for (int v = 0; v < P; ++v) to[v] = load_cell(w + v * kLanes * kDepth);
  }
  ENS_KERNEL_INLINE static void add_product(Vector& sum, Vector a, Vector b) {
    __asm__ volatile("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
};

ENS_KERNEL void interleave(const void* a, const void* b, int64_t pixels, void* to,
                           int64_t to_step) {
  const auto* first = static_cast<const BFloat16*>(a);
  const auto* second = static_cast<const BFloat16*>(b);
  auto* cell = static_cast<BFloat16*>(to);
  for (int64_t i = 0; i < pixels; ++i, first += Half::kLanes, cell += to_step) {
    __m512i both = Half::load_words(first);
    if (second) {
      both = _mm512_or_si512(both, _mm512_slli_epi32(Half::load_words(second), 16));
      second += Half::kLanes;
    }
    _mm512_storeu_si512(cell, both);
  }
}

#include "nn/cpu/block_kernels.inc"

constexpr BlockKernels with_interleave() {
  BlockKernels k = kernels_of<Half>();
  k.interleave = interleave;
  return k;
}
constexpr BlockKernels kHalf = with_interleave();

#undef ENS_KERNEL
#undef ENS_KERNEL_LAMBDA
#undef ENS_KERNEL_INLINE
}  // namespace
}  // namespace avx512_bf16

const BlockKernels* block_kernels(Dtype activations, Dtype weights) {
  static const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (activations == Dtype::kF32) {
    if (isa() >= Isa::kAvx512) {
      return weights == Dtype::kBF16 ? &avx512::kHalfWeights : &avx512::kFloat;
    }
    if (isa() == Isa::kAvx2 && fma) {
      return weights == Dtype::kBF16 ? &avx2::kHalfWeights : &avx2::kFloat;
    }
  }
  // With AMX oneDNN's kernels are far quicker.
  if (activations == Dtype::kBF16 && isa() == Isa::kAvx512Bf16) return &avx512_bf16::kHalf;
  return nullptr;
}

#else

const BlockKernels* block_kernels(Dtype, Dtype) { return nullptr; }

#endif

}  // namespace ens::cpu
