// SPDX-License-Identifier: Apache-2.0
#include "ensemble/protect/distance_train.h"

#include <cmath>
#include <vector>

#include "base/error.h"
#include "nn/autograd/ops.h"

namespace ens {
namespace {

// Under roots: distances of images in [0, 1] and of features are of the order of 1 to 100.
constexpr float kTiny = 1e-8f;

// 1 everywhere but on the diagonal.
Tensor off_diagonal(int64_t n) {
  Tensor mask = Tensor::full({n, n}, 1);
  for (int64_t i = 0; i < n; ++i) mask.data<float>()[i * n + i] = 0;
  return mask;
}

// [n, ...] -> [n, n] Euclidean distances.
Var distances(const Var& rows) {
  const int64_t n = rows.dim(0);
  Var x = cast(flatten(rows), Dtype::kF32);
  x = sub(x, mean_to(x, {1, x.dim(1)}));  // |x_j|^2 + |x_k|^2 - 2 x_j x_k then cancels less
  const Var squares = sum_to(square(x), {n, 1});
  const Var gram = matmul(x, x, false, true);
  const Var d2 = sub(add(squares, reshape(squares, {1, n})), affine(gram, 2, 0));
  // The diagonal is 0 whatever x is; rounding must not say otherwise.
  const Var mask(off_diagonal(n).to(rows.value().device()));
  const Var roots = sqrt(affine(mul(relu(d2), mask), 1, kTiny));
  return affine(roots, 1, -std::sqrt(kTiny));  // no distance is none again
}

Var centred(const Var& a) {
  const int64_t n = a.dim(0);
  const Var rows = mean_to(a, {n, 1});  // equal to the columns': a is symmetric
  return add(sub(sub(a, rows), reshape(rows, {1, n})), mean_to(rows, {1, 1}));
}

void require(const Shape& x, const Shape& y, int64_t least) {
  if (x.rank() < 2 || y.rank() < 2 || x[0] != y[0] || x[0] < least) {
    fail("needs " + std::to_string(least) + " or more rows of both, got " + x.str() + " and " +
             y.str(),
         "distance correlation");
  }
}

// [n, n] U-centred distances: rows and columns without the diagonal have mean 0.
std::vector<double> u_centred(const Tensor& rows) {
  const Tensor d = distances(Var(rows)).value().to(Device{}).plain();
  const int64_t n = d.dim(0);
  const float* a = d.data<float>();
  std::vector<double> sums(static_cast<size_t>(n));
  double total = 0;
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t k = 0; k < n; ++k) sums[static_cast<size_t>(j)] += a[j * n + k];
    total += sums[static_cast<size_t>(j)];
  }
  const auto m = static_cast<double>(n);
  std::vector<double> out(static_cast<size_t>(n * n));
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t k = 0; k < n; ++k) {
      if (j == k) continue;
      out[static_cast<size_t>(j * n + k)] =
          a[j * n + k] - (sums[static_cast<size_t>(j)] + sums[static_cast<size_t>(k)]) / (m - 2) +
          total / ((m - 1) * (m - 2));
    }
  }
  return out;
}

double inner(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

Var distance_correlation(const Var& x, const Var& y) {
  require(x.shape(), y.shape(), 2);
  const Var a = centred(distances(x)), b = centred(distances(y));
  const Var covariance = relu(mean(mul(a, b)));  // never negative but for rounding
  const Var variances = mul(mean(square(a)), mean(square(b)));
  const Var squared = div(covariance, sqrt(affine(variances, 1, kTiny)));
  return sqrt(affine(squared, 1, kTiny));
}

double unbiased_distance_correlation(const Tensor& x, const Tensor& y) {
  require(x.shape(), y.shape(), 4);
  const NoGrad no_grad;
  const std::vector<double> a = u_centred(x), b = u_centred(y);
  const double variances = inner(a, a) * inner(b, b);
  if (!(variances > 0)) return 0;
  const double squared = inner(a, b) / std::sqrt(variances);
  return std::copysign(std::sqrt(std::abs(squared)), squared);
}

}  // namespace ens
