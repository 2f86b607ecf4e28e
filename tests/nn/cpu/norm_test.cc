// SPDX-License-Identifier: Apache-2.0
// Batch normalisation and channel scaling against plain loops in double.
#include "tests/nn/cpu/naive.h"

namespace ens {
namespace {

// The channel of every element of a row-major tensor of this shape.
std::vector<size_t> channels_of(const Shape& s) {
  int64_t inner = 1;
  for (int axis = 2; axis < s.rank(); ++axis) inner *= s[axis];
  std::vector<size_t> c;
  for (int64_t i = 0; i < s.numel(); ++i) c.push_back(static_cast<size_t>(i / inner % s[1]));
  return c;
}

const std::vector<Shape> kShapes{{4, 16, 5, 6}, {3, 32, 2, 2}, {2, 3, 17, 16},  {2, 5, 7, 3},
                                 {3, 24, 4, 4}, {2, 1, 9, 9},  {5, 48, 1, 1},   {6, 40},
                                 {33, 1},       {7, 3},        {2, 16, 32, 33}, {1, 8, 3, 3}};

void check(const Shape& shape, Dtype dtype, Layout layout, bool relu, float mean) {
  if (!layout_fits(shape, layout)) return;
  const std::string what =
      shape.str() + " " + name(dtype) + " " + name(layout) + (relu ? " relu" : "");
  const auto channel = channels_of(shape);
  const auto channels = static_cast<size_t>(shape[1]);
  const Tensor x = random_tensor(shape, 1, dtype, layout, mean, 2);
  const Tensor gamma = random_tensor({shape[1]}, 2, Dtype::kF32, Layout::kPlain, 1, 0.3f);
  const Tensor beta = random_tensor({shape[1]}, 3);
  const Tensor dy = random_tensor(shape, 4, dtype, Layout::kPlain);
  const float eps = 1e-3f;
  const Values vx = values(x), vg = values(gamma), vb = values(beta), vdy = values(dy);
  const double count = static_cast<double>(vx.size() / channels);

  Values m(channels), v(channels), y(vx.size()), h(vx.size()), dz(vx.size()), dgamma(channels),
      dbeta(channels), dx(vx.size());
  for (size_t i = 0; i < vx.size(); ++i) m[channel[i]] += vx[i] / count;
  for (size_t i = 0; i < vx.size(); ++i) {
    v[channel[i]] += (vx[i] - m[channel[i]]) * (vx[i] - m[channel[i]]) / count;
  }
  for (size_t i = 0; i < vx.size(); ++i) {
    const size_t c = channel[i];
    h[i] = (vx[i] - m[c]) / std::sqrt(v[c] + static_cast<double>(eps));
    y[i] = h[i] * vg[c] + vb[c];
    dz[i] = relu && y[i] <= 0 ? 0 : vdy[i];
    if (relu) y[i] = std::max(y[i], 0.0);
    dbeta[c] += dz[i];
    dgamma[c] += dz[i] * h[i];
  }
  for (size_t i = 0; i < vx.size(); ++i) {
    const size_t c = channel[i];
    dx[i] = vg[c] / std::sqrt(v[c] + static_cast<double>(eps)) *
            (dz[i] - dbeta[c] / count - h[i] * dgamma[c] / count);
  }

  const BatchNormSpec spec{.eps = eps, .relu = relu};
  BatchNormSaved saved;
  const Tensor got = cpu_backend().batch_norm_train(x, gamma, beta, Tensor(), spec, saved);
  EXPECT_EQ(got.layout(), x.layout());
  EXPECT_EQ(got.dtype(), dtype);
  const double tolerance = dtype == Dtype::kF32 ? 2e-5 : 1e-2;
  expect_near(got, y, tolerance, "y " + what);
  expect_near(saved.mean, m, 1e-5, "mean " + what);
  expect_near(saved.var, v, 1e-4, "var " + what);
  const BatchNormGrads g =
      cpu_backend().batch_norm_train_grad(dy, x, got, gamma, beta, false, spec, saved);
  EXPECT_EQ(g.x.dtype(), dtype);
  expect_near(g.x, dx, dtype == Dtype::kF32 ? 1e-4 : 2e-2, "dx " + what);
  expect_near(g.gamma, dgamma, 1e-4, "dgamma " + what);
  expect_near(g.beta, dbeta, 1e-4, "dbeta " + what);
}

TEST(BatchNorm, ValuesStatisticsAndGradients) {
  for (const Shape& shape : kShapes)
    for (Dtype dtype : {Dtype::kF32, Dtype::kBF16})
      for (Layout layout : all_layouts())
        for (bool relu : {false, true}) check(shape, dtype, layout, relu, 0.5f);
}

TEST(BatchNorm, VarianceSurvivesALargeMean) {
  const Tensor x = random_tensor({8, 16, 8, 8}, 1, Dtype::kF32, Layout::kPlain, 1000, 0.5f);
  const Tensor gamma = Tensor::full({16}, 1), beta = Tensor::zeros({16});
  const Values vx = values(x);
  Values want(16), mean(16);
  const auto channel = channels_of(x.shape());
  for (size_t i = 0; i < vx.size(); ++i) mean[channel[i]] += vx[i] / 512;
  for (size_t i = 0; i < vx.size(); ++i) {
    want[channel[i]] += (vx[i] - mean[channel[i]]) * (vx[i] - mean[channel[i]]) / 512;
  }
  for (Layout layout : all_layouts()) {
    BatchNormSaved saved;
    cpu_backend().batch_norm_train(x.with_layout(layout), gamma, beta, Tensor(), {}, saved);
    expect_near(saved.var, want, 1e-4, name(layout));
  }
}

TEST(ChannelAffine, ValuesAndGradients) {
  for (const Shape& shape : kShapes)
    for (Dtype dtype : {Dtype::kF32, Dtype::kBF16})
      for (Layout layout : all_layouts())
        for (bool relu : {false, true}) {
          if (!layout_fits(shape, layout)) continue;
          const auto channel = channels_of(shape);
          const Tensor x = random_tensor(shape, 1, dtype, layout);
          const Tensor scale = random_tensor({shape[1]}, 2), shift = random_tensor({shape[1]}, 3);
          const Tensor dy = random_tensor(shape, 4, dtype, Layout::kPlain);
          const Values vx = values(x), vs = values(scale), vt = values(shift), vdy = values(dy);
          Values y(vx.size()), dx(vx.size());
          for (size_t i = 0; i < y.size(); ++i) {
            const size_t c = channel[i];
            y[i] = vx[i] * vs[c] + vt[c];
            dx[i] = relu && y[i] <= 0 ? 0 : vdy[i] * vs[c];
            if (relu) y[i] = std::max(y[i], 0.0);
          }
          const double tolerance = dtype == Dtype::kF32 ? 1e-6 : 5e-3;
          const Tensor got = cpu_backend().channel_affine(x, scale, shift, relu);
          expect_near(got, y, tolerance, shape.str());
          expect_near(cpu_backend().channel_affine_grad(dy, got, scale, relu), dx, tolerance,
                      shape.str());
        }
}

}  // namespace
}  // namespace ens
