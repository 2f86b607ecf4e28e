// SPDX-License-Identifier: Apache-2.0
#include "attacks/core/distribution.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "nn/autograd/ops.h"

namespace ens {

FeatureMoments feature_moments(std::span<const Tensor> parts, Device device) {
  constexpr int64_t kBatch = 256;
  NoGrad no_grad;
  const Shape shape = parts[0].shape();
  const int64_t c = shape[1], positions = shape[2] * shape[3], row = c * positions;
  std::vector<double> sum(static_cast<size_t>(row)), square_sum(sum.size()),
      gram(static_cast<size_t>(c * c));
  const auto collect = [](std::vector<double>& total, const Tensor& t) {
    const std::vector<float> values = t.to_vector();
    for (size_t i = 0; i < total.size(); ++i) total[i] += values[i];
  };
  int64_t count = 0;
  for (const Tensor& part : parts) {
    count += part.dim(0);
    for (int64_t first = 0; first < part.dim(0); first += kBatch) {
      const Var z(part.rows(first, std::min(kBatch, part.dim(0) - first)).to(device));
      collect(sum, sum_to(z, {1, c, shape[2], shape[3]}).value());
      collect(square_sum, sum_to(square(z), {1, c, shape[2], shape[3]}).value());
      collect(gram, channel_gram(z).value());
    }
  }
  if (count == 0) fail("there are no features", "feature_moments");
  const double n = static_cast<double>(count);
  std::vector<double> channel(static_cast<size_t>(c));
  double variance = 0;
  for (int64_t i = 0; i < row; ++i) {
    const auto k = static_cast<size_t>(i);
    sum[k] /= n;
    square_sum[k] = std::max(0.0, square_sum[k] / n - sum[k] * sum[k]);
    variance += square_sum[k] / static_cast<double>(row);
    channel[static_cast<size_t>(i / positions)] += sum[k] / static_cast<double>(positions);
  }
  FeatureMoments m;
  // Features without any variation: nothing to be learnt from, but nothing to divide by either.
  const double scale = variance > 1e-20 ? std::sqrt(variance) : 1.0;
  m.scale = static_cast<float>(scale);
  m.mean = Tensor::empty({1, c, shape[2], shape[3]});
  m.stddev = Tensor::empty(m.mean.shape());
  m.covariance = Tensor::empty({c, c});
  for (int64_t i = 0; i < row; ++i) {
    const auto k = static_cast<size_t>(i);
    m.mean.data<float>()[i] = static_cast<float>(sum[k] / scale);
    m.stddev.data<float>()[i] = static_cast<float>(std::sqrt(square_sum[k]) / scale);
  }
  for (int64_t a = 0; a < c; ++a) {
    for (int64_t b = 0; b < c; ++b) {
      const double product =
          gram[static_cast<size_t>(a * c + b)] / (n * static_cast<double>(positions));
      m.covariance.data<float>()[a * c + b] = static_cast<float>(
          (product - channel[static_cast<size_t>(a)] * channel[static_cast<size_t>(b)]) /
          (scale * scale));
    }
  }
  m.mean = m.mean.to(device);
  m.stddev = m.stddev.to(device);
  m.covariance = m.covariance.to(device);
  return m;
}

Var moment_loss(const Var& z, const FeatureMoments& wanted) {
  const Shape each = wanted.mean.shape();
  const int64_t c = each[1];
  const Var mean_z = mean_to(z, each);
  // The small number keeps the root's derivative finite where a position never varies.
  const Var variance = relu(sub(mean_to(square(z), each), square(mean_z)));
  const Var stddev = sqrt(affine(variance, 1, 1e-6f));
  const Var level = reshape(mean_to(mean_z, {1, c, 1, 1}), {c, 1});
  const float n = static_cast<float>(z.shape().numel() / c);
  const Var covariance =
      sub(affine(channel_gram(z), 1.0f / n, 0), matmul(level, level, false, true));
  return add(add(affine(mse(mean_z, Var(wanted.mean)), 10, 0),
                 affine(mse(stddev, Var(wanted.stddev)), 10, 0)),
             affine(mse(covariance, Var(wanted.covariance)), 100, 0));
}

Var kernel_discrepancy(const Var& x, const Tensor& y) {
  const Var a = flatten(x), b = flatten(Var(y));
  const auto norms = [](const Var& v) { return sum_to(square(v), {v.dim(0), 1}); };
  const Var na = norms(a), nb = norms(b);
  // Squared distances of the rows: |p|^2 + |q|^2 - 2 p q.
  const auto distances = [](const Var& p, const Var& np, const Var& q, const Var& nq) {
    const Var products = affine(matmul(p, q, false, true), -2, 0);
    return relu(add(add(products, np), reshape(nq, {1, q.dim(0)})));
  };
  const Var dyy = distances(b, nb, b, nb);
  const float scale = std::max(mean(dyy).item(), 1e-12f);
  const auto kernel = [&](const Var& d) {
    Var total;
    for (float k : {0.25f, 0.5f, 1.0f, 2.0f, 4.0f}) {
      const Var e = exp(affine(d, -1.0f / (k * scale), 0));
      total = total.defined() ? add(total, e) : e;
    }
    return affine(mean(total), 0.2f, 0);
  };
  const Var cross = kernel(distances(a, na, b, nb));
  return add(add(kernel(distances(a, na, a, na)), kernel(dyy)), affine(cross, -2, 0));
}

std::shared_ptr<Sequential> build_critic(const Shape& map, Rng& rng) {
  auto net = std::make_shared<Sequential>();
  const int64_t width = std::clamp<int64_t>(2 * map[0], 32, 128);
  int64_t channels = map[0], h = map[1], w = map[2];
  for (int64_t out : {width, 2 * width, 2 * width}) {
    const int stride = std::min(h, w) > 1 ? 2 : 1;
    net->push(std::make_shared<Conv2d>(channels, out, 3, ConvSpec{stride, 1}, true, rng));
    net->push(std::make_shared<Activation>(UnaryOp::kLeakyRelu, 0.2f));
    channels = out;
    h = (h + stride - 1) / stride;
    w = (w + stride - 1) / stride;
  }
  net->push(std::make_shared<Flatten>());
  net->push(std::make_shared<Linear>(channels * h * w, 1, true, rng));
  return net;
}

void require_gradients(const Module& module, bool on) {
  for (const NamedVar& p : module.parameters()) p.var.set_requires_grad(on);
}

OptimSpec adversarial_adam() {
  OptimSpec adam;
  adam.kind = OptimSpec::Kind::kAdam;
  adam.beta1 = 0.5f;
  adam.beta2 = 0.9f;
  return adam;
}

}  // namespace ens
