// SPDX-License-Identifier: Apache-2.0
// Exact products of 8-bit integers on one device, against plain loops in 64-bit integers. Included
// by the tests of each backend.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "nn/core/int8_product.h"
#include "nn/core/rng.h"

namespace ens::test {

using Integers = std::vector<int64_t>;

// Of kI8 or kU8: over the whole range of the dtype, or all `value`.
inline Tensor bytes_tensor(const Shape& shape, Dtype dtype, uint64_t seed) {
  Tensor t = Tensor::empty(shape, dtype);
  Rng rng(seed);
  auto* p = static_cast<uint8_t*>(t.host());
  for (int64_t i = 0; i < t.numel(); ++i) p[i] = static_cast<uint8_t>(rng.next());
  return t;
}
inline Tensor bytes_tensor(const Shape& shape, Dtype dtype, int value) {
  Tensor t = Tensor::empty(shape, dtype);
  auto* p = static_cast<uint8_t*>(t.host());
  std::fill_n(p, t.numel(), static_cast<uint8_t>(value));
  return t;
}

inline Integers integers(const Tensor& t) {
  const Tensor here = t.to(Device{}).plain();
  const auto copy = [](auto span) { return Integers(span.begin(), span.end()); };
  if (t.dtype() == Dtype::kU8) return copy(here.span<uint8_t>());
  if (t.dtype() == Dtype::kI8) return copy(here.span<int8_t>());
  return copy(here.span<int32_t>());
}

struct Int8Conv {
  int64_t batch, in, height, width, out, kh, kw;
  ConvSpec spec;
  std::string str() const {
    return Shape{batch, in, height, width}.str() + " with " + Shape{out, in, kh, kw}.str() + " s" +
           std::to_string(spec.stride) + " p" + std::to_string(spec.padding) + " d" +
           std::to_string(spec.dilation) + " g" + std::to_string(spec.groups);
  }
};

inline Integers naive_conv(const Tensor& x, const Tensor& w, const ConvSpec& s, const Shape& y) {
  const Integers vx = integers(x), vw = integers(w);
  const int64_t channels = w.dim(1), kh = w.dim(2), kw = w.dim(3), group_out = w.dim(0) / s.groups;
  const int64_t height = x.dim(2), width = x.dim(3), rows = y[2], columns = y[3];
  Integers sums;
  for (int64_t b = 0; b < y[0]; ++b)
    for (int64_t o = 0; o < y[1]; ++o)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) {
          int64_t sum = 0;
          for (int64_t i = 0; i < channels; ++i)
            for (int64_t kr = 0; kr < kh; ++kr)
              for (int64_t kc = 0; kc < kw; ++kc) {
                const int64_t row = r * s.stride - s.padding + kr * s.dilation;
                const int64_t column = c * s.stride - s.padding + kc * s.dilation;
                if (row < 0 || row >= height || column < 0 || column >= width) continue;
                const int64_t plane = b * channels * s.groups + o / group_out * channels + i;
                const int64_t at = (plane * height + row) * width + column;
                const int64_t tap = ((o * channels + i) * kh + kr) * kw + kc;
                sum += vx[static_cast<size_t>(at)] * vw[static_cast<size_t>(tap)];
              }
          sums.push_back(sum);
        }
  return sums;
}

inline Integers naive_gemm(bool transpose_a, bool transpose_b, const Tensor& a, const Tensor& b) {
  const Integers va = integers(a), vb = integers(b);
  const int64_t m = a.dim(transpose_a ? 1 : 0), k = a.dim(transpose_a ? 0 : 1);
  const int64_t n = b.dim(transpose_b ? 0 : 1);
  Integers sums(static_cast<size_t>(m * n));
  for (int64_t i = 0; i < m; ++i)
    for (int64_t t = 0; t < k; ++t)
      for (int64_t j = 0; j < n; ++j) {
        sums[static_cast<size_t>(i * n + j)] +=
            va[static_cast<size_t>(transpose_a ? t * m + i : i * k + t)] *
            vb[static_cast<size_t>(transpose_b ? j * k + t : t * n + j)];
      }
  return sums;
}

inline void expect_conv(Device device, const Tensor& x, const Tensor& w, const ConvSpec& spec,
                        const std::string& what) {
  const Shape shape = conv2d_s8_shape(x, w, spec);
  const Tensor y = backend(device).conv2d_s8(x.to(device), w.to(device), spec);
  ASSERT_EQ(y.dtype(), Dtype::kI32) << what;
  ASSERT_EQ(y.shape(), shape) << what;
  EXPECT_EQ(y.layout(), Layout::kPlain) << what;
  EXPECT_TRUE(integers(y) == naive_conv(x, w, spec, shape)) << what;
}

inline void expect_gemm(Device device, bool transpose_a, bool transpose_b, const Tensor& a,
                        const Tensor& b, const std::string& what) {
  const Tensor c = backend(device).gemm_s8(transpose_a, transpose_b, a.to(device), b.to(device));
  ASSERT_EQ(c.dtype(), Dtype::kI32) << what;
  ASSERT_EQ(c.shape(), gemm_s8_shape(transpose_a, transpose_b, a, b)) << what;
  EXPECT_TRUE(integers(c) == naive_gemm(transpose_a, transpose_b, a, b)) << what;
}

inline void check_int8_convolutions(Device device) {
  const std::vector<Int8Conv> cases{
      {2, 64, 8, 8, 64, 3, 3, {1, 1, 1, 1}},    {1, 3, 32, 32, 16, 3, 3, {1, 1, 1, 1}},
      {3, 16, 9, 11, 20, 3, 3, {2, 1, 1, 1}},   {2, 32, 16, 16, 64, 1, 1, {2, 0, 1, 1}},
      {5, 40, 7, 7, 30, 1, 1, {1, 0, 1, 1}},    {2, 8, 12, 12, 8, 3, 3, {1, 2, 2, 1}},
      {2, 24, 10, 10, 24, 3, 3, {1, 1, 1, 24}}, {2, 24, 10, 10, 48, 3, 3, {2, 1, 1, 24}},
      {2, 12, 6, 6, 18, 3, 3, {1, 1, 1, 3}},    {17, 128, 2, 2, 70, 3, 3, {1, 1, 1, 1}},
      {33, 5, 1, 1, 3, 1, 1, {1, 0, 1, 1}},     {1, 6, 20, 23, 14, 5, 4, {3, 2, 1, 2}},
      {2, 4, 40, 70, 29, 7, 7, {2, 3, 1, 1}},   {1, 1, 5, 5, 1, 3, 3, {1, 0, 1, 1}},
      {1, 7, 3, 65, 13, 1, 5, {1, 3, 3, 1}},    {0, 3, 8, 8, 4, 3, 3, {1, 1, 1, 1}},
  };
  for (const Int8Conv& c : cases) {
    for (const Dtype dtype : {Dtype::kI8, Dtype::kU8}) {
      const Tensor x = bytes_tensor({c.batch, c.in, c.height, c.width}, dtype, uint64_t{1});
      const Tensor w =
          bytes_tensor({c.out, c.in / c.spec.groups, c.kh, c.kw}, Dtype::kI8, uint64_t{2});
      expect_conv(device, x, w, c.spec, c.str() + " " + name(dtype));
      if (c.height != 16) continue;
      expect_conv(device, x.with_layout(Layout::kChannelsLast), w, c.spec, "channels last");
    }
  }
}

inline void check_int8_matrix_products(Device device) {
  struct Sizes {
    int64_t m, n, k;
  };
  for (const auto& [m, n, k] :
       {Sizes{1, 10, 512}, Sizes{64, 64, 64}, Sizes{17, 33, 5}, Sizes{3, 100, 259},
        Sizes{130, 31, 77}, Sizes{1, 1, 1}, Sizes{29, 257, 2}, Sizes{5, 7, 0}, Sizes{0, 4, 8}}) {
    for (const Dtype dtype : {Dtype::kI8, Dtype::kU8}) {
      for (const bool ta : {false, true}) {
        for (const bool tb : {false, true}) {
          const Tensor a = bytes_tensor(ta ? Shape{k, m} : Shape{m, k}, dtype, uint64_t{3});
          const Tensor b = bytes_tensor(tb ? Shape{n, k} : Shape{k, n}, Dtype::kI8, uint64_t{4});
          expect_gemm(device, ta, tb, a, b,
                      Shape{m, n, k}.str() + (ta ? " a'" : "") + (tb ? " b' " : " ") + name(dtype));
        }
      }
    }
  }
}

// Where 16-bit sums of neighbouring products would saturate, and where int32 ends.
inline void check_int8_extremes(Device device) {
  struct Extreme {
    Dtype dtype;
    int x, w;
    int64_t terms;  // within int32, some as many as fit
  };
  for (const auto& [dtype, x, w, terms] :
       {Extreme{Dtype::kU8, 255, -128, 1000}, Extreme{Dtype::kU8, 255, 127, kMaxTermsU8},
        Extreme{Dtype::kI8, 127, 127, 1000}, Extreme{Dtype::kI8, -128, -128, 1000},
        Extreme{Dtype::kI8, -128, 127, kMaxTermsI8}, Extreme{Dtype::kI8, 127, -128, 1000}}) {
    const std::string what =
        std::string(name(dtype)) + " " + std::to_string(x) + " by " + std::to_string(w);
    for (const int64_t k : {int64_t{64}, terms}) {
      expect_gemm(device, false, true, bytes_tensor({2, k}, dtype, x),
                  bytes_tensor({3, k}, Dtype::kI8, w), what + " " + std::to_string(k) + " terms");
    }
    expect_conv(device, bytes_tensor({2, 64, 6, 6}, dtype, x),
                bytes_tensor({33, 64, 3, 3}, Dtype::kI8, w), {1, 1, 1, 1}, what);
    expect_conv(device, bytes_tensor({1, 8, 6, 6}, dtype, x),
                bytes_tensor({8, 1, 3, 3}, Dtype::kI8, w), {1, 1, 1, 8}, what);
  }
}

// Refused before anything is read: `call` must say `words`.
template <typename Call>
void expect_refusal(const std::string& words, Call&& call) {
  try {
    call();
    ADD_FAILURE() << "accepted; expected: " << words;
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Error::Kind::kUsage);
    EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
  }
}

inline void check_int8_refusals(Device device) {
  Backend& b = backend(device);
  const auto bytes = [&](const Shape& shape, Dtype dtype) {
    return Tensor::zeros(shape, dtype).to(device);
  };
  const Dtype i8 = Dtype::kI8, u8 = Dtype::kU8;
  expect_refusal("132104", [&] {
    b.gemm_s8(false, true, bytes({1, kMaxTermsI8 + 1}, i8), bytes({1, kMaxTermsI8 + 1}, i8));
  });
  expect_refusal("66311", [&] {
    b.gemm_s8(false, true, bytes({1, kMaxTermsU8 + 1}, u8), bytes({1, kMaxTermsU8 + 1}, i8));
  });
  expect_refusal("66311", [&] {
    b.conv2d_s8(bytes({1, 7400, 3, 3}, u8), bytes({1, 7400, 3, 3}, i8), {});
  });
  expect_refusal("uint8", [&] { b.gemm_s8(false, false, bytes({2, 2}, i8), bytes({2, 2}, u8)); });
  expect_refusal("float32", [&] {
    b.conv2d_s8(bytes({1, 2, 3, 3}, Dtype::kF32), bytes({1, 2, 3, 3}, i8), {});
  });
  expect_refusal("[K,N]", [&] { b.gemm_s8(false, true, bytes({2, 3}, i8), bytes({3, 2}, i8)); });
  expect_refusal("groups", [&] {
    b.conv2d_s8(bytes({1, 4, 3, 3}, i8), bytes({3, 2, 3, 3}, i8), {.groups = 2});
  });
  expect_refusal("padding", [&] {
    b.conv2d_s8(bytes({1, 4, 2, 2}, i8), bytes({3, 4, 1, 1}, i8), {.padding = 1 << 30});
  });
  expect_refusal("does not fit", [&] {
    b.conv2d_s8(bytes({1, 4, 2, 2}, i8), bytes({3, 4, 3, 3}, i8), {});
  });
}

}  // namespace ens::test
