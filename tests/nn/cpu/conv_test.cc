// SPDX-License-Identifier: Apache-2.0
// Convolutions and matrix products against plain loops in double.
#include "nn/cpu/conv.h"

#include <functional>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "base/error.h"
#include "nn/cpu/dnnl_util.h"
#include "tests/nn/cpu/naive.h"

namespace ens {
namespace {

struct Case {
  int64_t batch, in, height, width, out, kh, kw;
  ConvSpec spec;
};

void PrintTo(const Case& c, std::ostream* os) {
  *os << "b" << c.batch << " " << c.in << "x" << c.height << "x" << c.width << " -> " << c.out
      << ", " << c.kh << "x" << c.kw << " s" << c.spec.stride << " p" << c.spec.padding << " d"
      << c.spec.dilation << " g" << c.spec.groups;
}

Shape x_shape(const Case& c) { return {c.batch, c.in, c.height, c.width}; }
Shape w_shape(const Case& c) { return {c.out, c.in / c.spec.groups, c.kh, c.kw}; }
Shape y_shape(const Case& c) {
  const auto size = [&](int64_t in, int64_t k) {
    return (in + 2 * c.spec.padding - c.spec.dilation * (k - 1) - 1) / c.spec.stride + 1;
  };
  return {c.batch, c.out, size(c.height, c.kh), size(c.width, c.kw)};
}

// Calls f(index in x, index in w, index in y) for every product the convolution sums.
template <typename F>
void for_products(const Case& c, F&& f) {
  const Shape xs = x_shape(c), ws = w_shape(c), ys = y_shape(c);
  const int64_t group_out = c.out / c.spec.groups;
  for (int64_t n = 0; n < c.batch; ++n)
    for (int64_t o = 0; o < c.out; ++o)
      for (int64_t oh = 0; oh < ys[2]; ++oh)
        for (int64_t ow = 0; ow < ys[3]; ++ow)
          for (int64_t i = 0; i < ws[1]; ++i)
            for (int64_t kh = 0; kh < c.kh; ++kh)
              for (int64_t kw = 0; kw < c.kw; ++kw) {
                const int64_t h = oh * c.spec.stride - c.spec.padding + kh * c.spec.dilation;
                const int64_t w = ow * c.spec.stride - c.spec.padding + kw * c.spec.dilation;
                if (h < 0 || h >= c.height || w < 0 || w >= c.width) continue;
                f(static_cast<size_t>(at(xs, n, o / group_out * ws[1] + i, h, w)),
                  static_cast<size_t>(at(ws, o, i, kh, kw)),
                  static_cast<size_t>(at(ys, n, o, oh, ow)));
              }
}

class ConvTest : public testing::TestWithParam<Case> {
 protected:
  void check(Dtype dtype, Layout layout) {
    const Case& c = GetParam();
    const std::string what = std::string(name(dtype)) + " " + name(layout);
    const Tensor x = random_tensor(x_shape(c), 1, dtype, layout);
    const Tensor w = random_tensor(w_shape(c), 2, Dtype::kF32, Layout::kPlain, 0, 0.1f);
    const Tensor bias = random_tensor({c.out}, 3);
    const Tensor dy = random_tensor(y_shape(c), 4, dtype, layout);
    const Values vx = values(x), vw = values(w), vb = values(bias), vdy = values(dy);
    Values y(vdy.size()), dx(vx.size()), dw(vw.size());
    for_products(c, [&](size_t ix, size_t iw, size_t iy) {
      y[iy] += vx[ix] * vw[iw];
      dx[ix] += vdy[iy] * vw[iw];
      dw[iw] += vx[ix] * vdy[iy];
    });
    Values with_bias = y;
    const size_t pixels = static_cast<size_t>(y_shape(c)[2] * y_shape(c)[3]);
    for (size_t i = 0; i < y.size(); ++i) {
      with_bias[i] += vb[i / pixels % static_cast<size_t>(c.out)];
    }
    Backend& b = cpu_backend();
    const double tolerance = tolerance_of(dtype);
    const Tensor got = b.conv2d(x, w, Tensor(), c.spec);
    EXPECT_EQ(got.shape(), y_shape(c));
    EXPECT_EQ(got.dtype(), dtype);
    expect_near(got, y, tolerance, "y " + what);
    expect_near(b.conv2d(x, w, bias, c.spec), with_bias, tolerance, "y+bias " + what);
    const Tensor got_dx = b.conv2d_grad_input(dy, w, c.spec, x_shape(c));
    EXPECT_EQ(got_dx.dtype(), dtype);
    expect_near(got_dx, dx, tolerance, "dx " + what);
    const Tensor got_dw = b.conv2d_grad_weight(x, dy, c.spec, w_shape(c));
    EXPECT_EQ(got_dw.dtype(), Dtype::kF32);
    EXPECT_EQ(got_dw.layout(), Layout::kPlain);
    expect_near(got_dw, dw, tolerance, "dw " + what);
  }
};

ConvProblem problem_of(const Case& c, Dtype dtype) {
  return {x_shape(c), w_shape(c), y_shape(c), c.spec, dtype};
}

// While it lives, one implementation computes every convolution.
struct Forced {
  explicit Forced(const char* name) { cpu::force_conv_implementation(name); }
  ~Forced() { cpu::force_conv_implementation(""); }
};

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST_P(ConvTest, EachImplementation) {
  for (const cpu::ConvImplementation& i : cpu::conv_implementations()) {
    SCOPED_TRACE(i.name);
    for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
      if (!cpu_backend().supports(dtype)) continue;
      const Forced forced(i.name);
      if (const char* reason = i.why_not(problem_of(GetParam(), dtype))) {
        const Tensor x = Tensor::zeros(x_shape(GetParam()), dtype);
        const Tensor w = Tensor::zeros(w_shape(GetParam()));
        EXPECT_NE(
            error_of([&] { cpu_backend().conv2d(x, w, Tensor(), GetParam().spec); }).find(reason),
            std::string::npos);
        continue;
      }
      check(dtype, Layout::kPlain);
    }
  }
}

TEST_P(ConvTest, Float32InEveryLayout) {
  for (Layout layout : all_layouts()) check(Dtype::kF32, layout);
}

TEST_P(ConvTest, BFloat16InEveryLayout) {
  if (!cpu_backend().supports(Dtype::kBF16)) GTEST_SKIP() << "no bfloat16 instructions here";
  for (Layout layout : all_layouts()) check(Dtype::kBF16, layout);
}

std::vector<Case> conv_cases() {
  return {

      // what ResNet-18 has: stem, blocks, strided ones, projections, the small last maps
      Case{3, 3, 12, 12, 16, 3, 3, {1, 1, 1, 1}}, Case{2, 16, 9, 8, 16, 3, 3, {1, 1, 1, 1}},
      Case{2, 16, 8, 8, 32, 3, 3, {2, 1, 1, 1}}, Case{2, 16, 9, 9, 32, 1, 1, {2, 0, 1, 1}},
      Case{5, 32, 2, 2, 48, 3, 3, {1, 1, 1, 1}}, Case{5, 64, 2, 2, 64, 3, 3, {1, 1, 1, 1}},
      Case{3, 32, 4, 4, 64, 3, 3, {2, 1, 1, 1}}, Case{1, 32, 2, 2, 32, 3, 3, {1, 1, 1, 1}},
      Case{4, 32, 2, 2, 64, 3, 3, {2, 1, 1, 1}}, Case{4, 32, 1, 1, 64, 3, 3, {1, 1, 1, 1}},
      Case{4, 32, 2, 2, 64, 1, 1, {2, 0, 1, 1}}, Case{4, 32, 2, 1, 16, 3, 3, {1, 1, 1, 1}},
      // many images of small maps, and large maps, strided and not
      Case{13, 16, 4, 4, 32, 3, 3, {1, 1, 1, 1}}, Case{7, 32, 4, 4, 16, 3, 3, {2, 1, 1, 1}},
      Case{70, 64, 2, 2, 16, 3, 3, {1, 1, 1, 1}}, Case{7, 16, 4, 5, 32, 1, 1, {2, 0, 1, 1}},
      Case{8, 48, 2, 2, 48, 3, 3, {1, 1, 1, 1}}, Case{70, 32, 4, 4, 48, 3, 3, {1, 1, 1, 1}},
      // by Winograd: whole and halved tiles, all paddings, an odd image left over
      Case{3, 16, 7, 5, 32, 3, 3, {1, 0, 1, 1}}, Case{5, 32, 4, 7, 16, 3, 3, {1, 2, 1, 1}},
      Case{33, 16, 6, 6, 48, 3, 3, {1, 1, 1, 1}}, Case{3, 16, 41, 38, 16, 3, 3, {1, 1, 1, 1}},
      Case{1, 16, 30, 70, 32, 3, 3, {1, 1, 1, 1}}, Case{2, 128, 8, 8, 32, 3, 3, {1, 1, 1, 1}},
      Case{5, 16, 9, 8, 32, 3, 3, {2, 1, 1, 1}}, Case{6, 32, 5, 4, 16, 4, 4, {2, 1, 1, 1}},
      Case{8, 6, 16, 16, 12, 1, 1, {2, 0, 1, 1}}, Case{8, 6, 8, 8, 12, 3, 3, {2, 1, 1, 1}},
      // odd channels, kernels and sizes
      Case{2, 5, 7, 6, 3, 3, 3, {1, 1, 1, 1}}, Case{2, 24, 6, 5, 24, 3, 3, {1, 1, 1, 1}},
      Case{2, 16, 6, 6, 24, 3, 3, {1, 1, 1, 1}}, Case{2, 32, 8, 8, 3, 3, 3, {1, 1, 1, 1}},
      Case{2, 1, 9, 9, 4, 5, 5, {1, 2, 1, 1}}, Case{2, 3, 9, 9, 7, 7, 7, {2, 3, 1, 1}},
      Case{2, 8, 7, 5, 16, 2, 3, {1, 0, 1, 1}}, Case{2, 5, 2, 2, 5, 3, 3, {1, 1, 1, 1}},
      Case{1, 16, 11, 10, 16, 4, 4, {3, 1, 1, 1}}, Case{2, 16, 5, 5, 16, 1, 1, {1, 1, 1, 1}},
      // dilation
      Case{2, 16, 10, 10, 16, 3, 3, {1, 2, 2, 1}}, Case{2, 5, 11, 9, 6, 3, 3, {2, 2, 3, 1}},
      Case{2, 32, 2, 2, 32, 3, 3, {1, 2, 2, 1}},
      // groups, depthwise too
      Case{2, 32, 6, 6, 32, 3, 3, {1, 1, 1, 2}}, Case{2, 16, 6, 6, 16, 3, 3, {1, 1, 1, 16}},
      Case{2, 12, 6, 6, 8, 3, 3, {2, 1, 1, 4}}, Case{2, 6, 5, 5, 6, 3, 3, {1, 1, 1, 6}},
      Case{2, 32, 2, 2, 32, 3, 3, {1, 1, 1, 4}},
      // transposed convolutions of decoders, seen from the other side
      Case{2, 3, 16, 16, 32, 4, 4, {2, 1, 1, 1}}, Case{2, 16, 8, 8, 32, 4, 4, {2, 1, 1, 1}},
      Case{2, 16, 8, 8, 32, 3, 3, {2, 1, 1, 1}}, Case{2, 5, 7, 9, 10, 2, 2, {2, 0, 1, 1}}};
}

INSTANTIATE_TEST_SUITE_P(Shapes, ConvTest, testing::ValuesIn(conv_cases()));

// EachImplementation tries each of them on some of the cases.
TEST(ConvImplementations, HaveCases) {
  std::map<std::string, int> counts;
  for (const Case& c : conv_cases()) {
    for (const cpu::ConvImplementation& i : cpu::conv_implementations()) {
      counts[i.name] += !i.why_not(problem_of(c, Dtype::kF32));
    }
  }
  EXPECT_EQ(counts["onednn"], static_cast<int>(conv_cases().size()));
  EXPECT_GT(counts["dense_small_map"], 5);
  if (cpu::isa() >= cpu::Isa::kAvx2) {
    EXPECT_GT(counts["block_conv"], 15);
  }
}

TEST(ConvImplementations, UnknownNamesAreRefusedWithTheKnownOnes) {
  EXPECT_NE(error_of([] {
              cpu::force_conv_implementation("cudnn");
            }).find("block_conv, dense_small_map, onednn"),
            std::string::npos);
  EXPECT_EQ(cpu::forced_conv_implementation(), nullptr);
}

// What was chosen before there was a list, by the width of a vector (in floats) where it depends on
// the processor: block_conv's channels are multiples of that, and without AVX2 there is none.
TEST(ConvImplementations, AreChosenAsRecorded) {
  const char *const block = "block_conv", *const dense = "dense_small_map", *const one = "onednn";
  struct Recorded {
    Case c;
    bool serving;
    std::map<int, const char*> by_lanes;  // 0, 8, 16
    const char* amx;                      // in bfloat16
  };
  const Recorded cases[] = {
      {{128, 3, 32, 32, 64, 3, 3, {1, 1, 1, 1}}, false, {{0, one}, {8, one}, {16, one}}, one},
      {{128, 64, 32, 32, 64, 3, 3, {1, 1, 1, 1}}, false, {{0, one}, {8, block}, {16, block}}, one},
      {{8, 24, 8, 8, 24, 3, 3, {1, 1, 1, 1}}, false, {{0, one}, {8, block}, {16, one}}, one},
      {{8, 512, 2, 2, 512, 3, 3, {1, 1, 1, 1}},
       false,
       {{0, dense}, {8, block}, {16, block}},
       dense},
      {{4, 32, 2, 2, 64, 1, 1, {2, 0, 1, 1}}, false, {{0, one}, {8, block}, {16, block}}, one},
      {{8, 20, 2, 2, 20, 3, 3, {1, 1, 1, 1}}, false, {{0, dense}, {8, dense}, {16, dense}}, dense},
      {{8, 5, 2, 2, 5, 3, 3, {1, 1, 1, 1}}, false, {{0, one}, {8, one}, {16, one}}, one},
      {{8, 32, 2, 2, 32, 3, 3, {1, 1, 1, 4}}, false, {{0, one}, {8, one}, {16, one}}, one},
      {{8, 20, 3, 3, 20, 3, 3, {1, 1, 1, 1}}, false, {{0, one}, {8, one}, {16, one}}, one},
      // Served, the matrix pays from 8 images on, or where it is no larger than the weight.
      {{7, 20, 2, 2, 20, 3, 3, {1, 1, 1, 1}}, true, {{0, one}, {8, one}, {16, one}}, one},
      {{8, 20, 2, 2, 20, 3, 3, {1, 1, 1, 1}}, true, {{0, dense}, {8, dense}, {16, dense}}, dense},
      {{8, 5, 2, 2, 5, 3, 3, {1, 1, 1, 1}}, true, {{0, dense}, {8, dense}, {16, dense}}, dense},
      {{1, 20, 2, 2, 20, 3, 3, {2, 1, 1, 1}}, true, {{0, dense}, {8, dense}, {16, dense}}, dense},
      {{1, 512, 2, 2, 512, 3, 3, {1, 1, 1, 1}}, true, {{0, one}, {8, block}, {16, block}}, one},
      {{32, 512, 2, 2, 512, 3, 3, {1, 1, 1, 1}},
       true,
       {{0, dense}, {8, block}, {16, block}},
       dense},
  };
  const int lanes = cpu::isa() >= cpu::Isa::kAvx512 ? 16 : cpu::isa() >= cpu::Isa::kAvx2 ? 8 : 0;
  for (const Recorded& r : cases) {
    SCOPED_TRACE(testing::PrintToString(r.c) + (r.serving ? " served" : ""));
    const auto chosen = [&](Dtype dtype) {
      ConvProblem p = problem_of(r.c, dtype);
      p.serving = r.serving;
      // explain_conv() says the same, and of each of the others why not.
      const std::string name = cpu::choose_conv(p).name;
      size_t at = 0;
      for (const ConvCandidate& c : cpu_backend().explain_conv(p)) {
        EXPECT_EQ(c.name, cpu::conv_implementations()[at++].name);
        EXPECT_EQ(c.rejected.empty(), c.name == name) << c.name << ": " << c.rejected;
      }
      return name;
    };
    EXPECT_EQ(chosen(Dtype::kF32), r.by_lanes.at(lanes));
    if (cpu::isa() == cpu::Isa::kAmx) {
      EXPECT_EQ(chosen(Dtype::kBF16), r.amx);
    }
    if (cpu::isa() == cpu::Isa::kAvx512Bf16) {
      EXPECT_EQ(chosen(Dtype::kBF16), r.by_lanes.at(lanes));
    }
  }
}

TEST(Conv, RowsOfABiggerTensor) {
  const Tensor x = random_tensor({6, 16, 5, 5}, 1, Dtype::kF32, Layout::kBlocked16);
  const Tensor w = random_tensor({16, 16, 3, 3}, 2);
  const ConvSpec spec{1, 1, 1, 1};
  const Values whole = values(cpu_backend().conv2d(x, w, Tensor(), spec));
  const Values part(whole.begin() + 2 * 400, whole.begin() + 5 * 400);
  expect_near(cpu_backend().conv2d(x.rows(2, 3), w, Tensor(), spec), part, 1e-6);
}

void check_gemm(bool ta, bool tb, Dtype dtype, Dtype c_dtype, float alpha, float beta) {
  const int64_t m = 7, n = 33, k = 19;
  const Tensor a = random_tensor(ta ? Shape{k, m} : Shape{m, k}, 1, dtype);
  const Tensor b = random_tensor(tb ? Shape{n, k} : Shape{k, n}, 2, dtype);
  Tensor c = random_tensor({m, n}, 3, c_dtype);
  const Values va = values(a), vb = values(b);
  Values want = values(c);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t l = 0; l < k; ++l) {
        sum += va[static_cast<size_t>(ta ? l * m + i : i * k + l)] *
               vb[static_cast<size_t>(tb ? j * k + l : l * n + j)];
      }
      double& out = want[static_cast<size_t>(i * n + j)];
      out = static_cast<double>(alpha) * sum + static_cast<double>(beta) * out;
    }
  cpu_backend().gemm(ta, tb, alpha, a, b, beta, c);
  EXPECT_EQ(c.dtype(), c_dtype);
  expect_near(c, want, tolerance_of(c_dtype));
}

TEST(Gemm, EveryTransposeAndType) {
  for (bool ta : {false, true})
    for (bool tb : {false, true})
      for (float beta : {0.0f, 1.0f, 0.5f})
        for (float alpha : {1.0f, -2.0f}) {
          check_gemm(ta, tb, Dtype::kF32, Dtype::kF32, alpha, beta);
          if (!cpu_backend().supports(Dtype::kBF16)) continue;
          check_gemm(ta, tb, Dtype::kBF16, Dtype::kBF16, alpha, beta);
          check_gemm(ta, tb, Dtype::kBF16, Dtype::kF32, alpha, beta);
        }
}

TEST(Gemm, NothingToSum) {
  Tensor c = Tensor::full({2, 3}, 4.0f);
  cpu_backend().gemm(false, false, 1.0f, Tensor::empty({2, 0}), Tensor::empty({0, 3}), 0.5f, c);
  expect_near(c, Values(6, 2.0), 1e-6);
}

}  // namespace
}  // namespace ens
