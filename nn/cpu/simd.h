// SPDX-License-Identifier: Apache-2.0
// Small helpers for the hand-written kernels of nn/cpu. Internal.
//
// Kernels are plain loops in functions marked ENS_CLONES: the compiler makes an AVX-512, an AVX2
// and a baseline version of each and the loader picks one, so that one binary is quick on every
// x86-64. What they call must be ENS_INLINE, to be compiled along with each version. ENS_BASELINE
// leaves out all but the last, for a test.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "nn/core/dtype.h"
#include "nn/core/tensor.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(ENS_BASELINE)
#define ENS_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ENS_CLONES
#endif
#define ENS_INLINE inline __attribute__((always_inline))
#define ENS_INLINE_LAMBDA __attribute__((always_inline))

// Vectors wider than the baseline's registers are only ever passed between inlined functions.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace ens::cpu {

ENS_INLINE float load(float v) { return v; }
ENS_INLINE float load(BFloat16 v) {
  return std::bit_cast<float>(static_cast<uint32_t>(v.bits) << 16);
}
ENS_INLINE void store(float* p, float v) { *p = v; }
// As BFloat16(float), without a branch, so that loops vectorise.
ENS_INLINE void store(BFloat16* p, float v) {
  const auto u = std::bit_cast<uint32_t>(v);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const uint32_t quiet_nan = (u >> 16) | 0x40u;
  p->bits = static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

void to_bfloat16(const float* from, int64_t n, BFloat16* to);  // in copy.cc

// W floats in registers, whatever the registers' width (a GCC and clang extension).
template <int W>
struct VectorOf {
  typedef float Float __attribute__((vector_size(4 * W)));
  typedef uint32_t Word __attribute__((vector_size(4 * W)));
  typedef uint16_t Half __attribute__((vector_size(2 * W)));
};
template <int W>
using Vec = typename VectorOf<W>::Float;

template <int W>
ENS_INLINE Vec<W> load_vec(const float* p) {
  Vec<W> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <int W>
ENS_INLINE Vec<W> load_vec(const BFloat16* p) {
  typename VectorOf<W>::Half half;
  std::memcpy(&half, p, sizeof half);
  const auto word = __builtin_convertvector(half, typename VectorOf<W>::Word) << 16;
  return std::bit_cast<Vec<W>>(word);
}
template <int W>
ENS_INLINE void store_vec(float* p, const Vec<W>& v) {
  std::memcpy(p, &v, sizeof v);
}
template <int W>
ENS_INLINE void store_vec(BFloat16* p, const Vec<W>& v) {
  using Word = typename VectorOf<W>::Word;
  const auto u = std::bit_cast<Word>(v);
  const Word rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const Word quiet_nan = (u >> 16) | 0x40u;
  const Word word = (u & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded;
  const auto half = __builtin_convertvector(word, typename VectorOf<W>::Half);
  std::memcpy(static_cast<void*>(p), &half, sizeof half);
}

// e^x to about 2e-7 relative, as a loop body that vectorises (std::exp does not).
ENS_INLINE float fast_exp(float x) {
  const float limited = x > 88.7f ? 88.7f : (x < -87.3f ? -87.3f : x);
  const float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float n = (limited * 1.44269504f + shifter) - shifter;
  const float r = (limited - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  float p = 1.9875691500e-4f;                                         // Cephes' expf
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const auto exponent = static_cast<int32_t>(n);
  const int32_t half = exponent / 2;  // two factors: 2^128 alone is not a float
  const auto power = [](int32_t e) ENS_INLINE_LAMBDA {
    return std::bit_cast<float>(static_cast<uint32_t>(e + 127) << 23);
  };
  const float y = p * power(half) * power(exponent - half);
  return x > 88.7f ? INFINITY : (x < -87.3f ? 0.0f : (x == x ? y : x));
}

// A tensor with channels, in whatever layout, as [outer][blocks][pixels][lanes]; channel = block *
// lanes + lane. Plain 4-D tensors have one lane, channels-last ones one block; [B,C] has one pixel.
struct ChannelView {
  int64_t outer, blocks, pixels, lanes;
  int64_t channels() const { return blocks * lanes; }
};

inline ChannelView channel_view(const Shape& shape, Layout layout) {
  if (shape.rank() == 2) return {shape[0], 1, 1, shape[1]};
  int64_t pixels = 1;
  for (int axis = 2; axis < shape.rank(); ++axis) pixels *= shape[axis];
  const int64_t c = shape[1];
  switch (layout) {
    case Layout::kPlain:
      return {shape[0], c, pixels, 1};
    case Layout::kChannelsLast:
      return {shape[0], 1, pixels, c};
    case Layout::kBlocked8:
      return {shape[0], c / 8, pixels, 8};
    case Layout::kBlocked16:
      return {shape[0], c / 16, pixels, 16};
  }
  return {};
}
inline ChannelView channel_view(const Tensor& t) { return channel_view(t.shape(), t.layout()); }

// Calls f with a null pointer of the element type of an activation (float32 or bfloat16).
template <typename F>
decltype(auto) with_activation_type(Dtype dtype, F&& f) {
  if (dtype == Dtype::kBF16) return f(static_cast<BFloat16*>(nullptr));
  return f(static_cast<float*>(nullptr));
}

// t in the given dtype and layout; itself if it is so already.
inline Tensor as(const Tensor& t, Dtype dtype, Layout layout) {
  return t.to(dtype).with_layout(layout);
}

}  // namespace ens::cpu
