// SPDX-License-Identifier: Apache-2.0
// Pooling against plain loops.
#include "tests/nn/cpu/naive.h"

namespace ens {
namespace {

struct Window {
  int64_t h0, h1, w0, w1;
};

Window window(const Shape& x, const PoolSpec& s, int64_t oh, int64_t ow) {
  return {std::max<int64_t>(0, oh * s.stride - s.padding),
          std::min<int64_t>(x[2], oh * s.stride - s.padding + s.kernel),
          std::max<int64_t>(0, ow * s.stride - s.padding),
          std::min<int64_t>(x[3], ow * s.stride - s.padding + s.kernel)};
}

Shape pooled(const Shape& x, const PoolSpec& s) {
  return {x[0], x[1], (x[2] + 2 * s.padding - s.kernel) / s.stride + 1,
          (x[3] + 2 * s.padding - s.kernel) / s.stride + 1};
}

void check(const Shape& shape, const PoolSpec& spec, Dtype dtype, Layout layout) {
  if (!layout_fits(shape, layout)) return;
  const std::string what = shape.str() + " k" + std::to_string(spec.kernel) + " s" +
                           std::to_string(spec.stride) + " p" + std::to_string(spec.padding) + " " +
                           name(dtype) + " " + name(layout);
  const Shape out = pooled(shape, spec);
  const Tensor x = random_tensor(shape, 1, dtype, layout);
  const Tensor dy = random_tensor(out, 2, dtype, Layout::kPlain);
  const Values vx = values(x), vdy = values(dy);
  Values top(vdy.size()), mean(vdy.size()), top_dx(vx.size()), mean_dx(vx.size());
  for (int64_t n = 0; n < out[0]; ++n)
    for (int64_t c = 0; c < out[1]; ++c)
      for (int64_t oh = 0; oh < out[2]; ++oh)
        for (int64_t ow = 0; ow < out[3]; ++ow) {
          const Window k = window(shape, spec, oh, ow);
          const auto o = static_cast<size_t>(at(out, n, c, oh, ow));
          const double count = static_cast<double>((k.h1 - k.h0) * (k.w1 - k.w0));
          size_t best = static_cast<size_t>(at(shape, n, c, k.h0, k.w0));
          for (int64_t h = k.h0; h < k.h1; ++h)
            for (int64_t w = k.w0; w < k.w1; ++w) {
              const auto i = static_cast<size_t>(at(shape, n, c, h, w));
              if (vx[i] > vx[best]) best = i;
              mean[o] += vx[i] / count;
              mean_dx[i] += vdy[o] / count;
            }
          top[o] = vx[best];
          top_dx[best] += vdy[o];
        }
  Backend& b = cpu_backend();
  Tensor workspace;
  const double tolerance = dtype == Dtype::kF32 ? 1e-6 : 1e-2;
  const Tensor y = b.max_pool(x, spec, true, workspace);
  EXPECT_EQ(y.shape(), out);
  EXPECT_EQ(y.dtype(), dtype);
  expect_near(y, top, 0, "max " + what);
  ASSERT_TRUE(workspace.defined());
  expect_near(b.max_pool_grad(dy, workspace, spec, shape), top_dx, tolerance, "max dx " + what);
  Tensor none;
  expect_near(b.max_pool(x, spec, false, none), top, 0, "max " + what);
  EXPECT_FALSE(none.defined());
  expect_near(b.avg_pool(x, spec), mean, tolerance, "avg " + what);
  expect_near(b.avg_pool_grad(dy.with_layout(layout_fits(out, layout) ? layout : Layout::kPlain),
                              spec, shape),
              mean_dx, tolerance, "avg dx " + what);
}

TEST(Pool, MaximumAndAverage) {
  for (const Shape& shape : {Shape{2, 16, 8, 8}, Shape{2, 3, 7, 9}, Shape{1, 24, 6, 5},
                             Shape{3, 32, 4, 4}, Shape{2, 5, 18, 17}})
    for (const PoolSpec& spec :
         {PoolSpec{2, 2, 0}, PoolSpec{3, 2, 1}, PoolSpec{3, 1, 1}, PoolSpec{2, 3, 0},
          PoolSpec{4, 2, 2}, PoolSpec{1, 2, 0}, PoolSpec{17, 1, 8}})
      for (Dtype dtype : {Dtype::kF32, Dtype::kBF16})
        for (Layout layout : all_layouts()) {
          if (spec.kernel > shape[2] + 2 * spec.padding) continue;
          if (spec.kernel > shape[3] + 2 * spec.padding) continue;
          check(shape, spec, dtype, layout);
        }
}

// A number that is none shows in the maximum of every window that holds it, wherever it lies there.
TEST(Pool, NaNIsTheMaximum) {
  const PoolSpec spec{3, 2, 1};
  for (int64_t bad = 0; bad < 25; ++bad) {
    for (const Layout layout : {Layout::kPlain, Layout::kChannelsLast}) {
      std::vector<float> pixels(25 * 2, 1.0f);
      pixels[static_cast<size_t>(bad)] = std::nanf("");  // in the first of two channels
      const Tensor x = Tensor::from(pixels, {1, 2, 5, 5}).with_layout(layout);
      Tensor workspace;
      const Values y = values(cpu_backend().max_pool(x, spec, false, workspace));
      for (int64_t oh = 0; oh < 3; ++oh)
        for (int64_t ow = 0; ow < 3; ++ow) {
          const Window k = window(x.shape(), spec, oh, ow);
          const int64_t row = bad / 5, column = bad % 5;
          const bool holds = row >= k.h0 && row < k.h1 && column >= k.w0 && column < k.w1;
          EXPECT_EQ(std::isnan(y[static_cast<size_t>(oh * 3 + ow)]), holds) << bad;
          EXPECT_EQ(y[static_cast<size_t>(9 + oh * 3 + ow)], 1.0);
        }
    }
  }
}

TEST(Pool, Global) {
  for (const Shape& shape :
       {Shape{2, 16, 5, 7}, Shape{3, 32, 2, 2}, Shape{2, 3, 9, 9}, Shape{2, 5, 1, 1}})
    for (Dtype dtype : {Dtype::kF32, Dtype::kBF16})
      for (Layout layout : all_layouts()) {
        if (!layout_fits(shape, layout)) continue;
        const Tensor x = random_tensor(shape, 1, dtype, layout);
        const Tensor dy = random_tensor({shape[0], shape[1]}, 2, dtype);
        const Values vx = values(x), vdy = values(dy);
        const auto pixels = static_cast<size_t>(shape[2] * shape[3]);
        Values y(vdy.size()), dx(vx.size());
        for (size_t i = 0; i < vx.size(); ++i) {
          y[i / pixels] += vx[i] / static_cast<double>(pixels);
          dx[i] = vdy[i / pixels] / static_cast<double>(pixels);
        }
        const Tensor got = cpu_backend().global_avg_pool(x);
        EXPECT_EQ(got.layout(), Layout::kPlain);
        EXPECT_EQ(got.dtype(), dtype);
        const double tolerance = dtype == Dtype::kF32 ? 1e-6 : 5e-3;
        expect_near(got, y, tolerance, shape.str());
        expect_near(cpu_backend().global_avg_pool_grad(dy, shape), dx, tolerance, shape.str());
      }
}

}  // namespace
}  // namespace ens
