// SPDX-License-Identifier: Apache-2.0
#include "attacks/shares/separation.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "attacks/core/metrics.h"
#include "base/error.h"

namespace ens {
namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;

// A row for each mixture: the differences of neighbours, to the right and below.
MatrixXd differences(const Tensor& mixtures) {
  const int64_t planes = mixtures.dim(1), height = mixtures.dim(2), width = mixtures.dim(3);
  const int64_t count = planes * (height * (width - 1) + (height - 1) * width);
  MatrixXd out(mixtures.dim(0), count);
  const float* from = mixtures.data<float>();
  for (int64_t s = 0; s < mixtures.dim(0); ++s) {
    int64_t at = 0;
    for (int64_t c = 0; c < planes; ++c) {
      const float* plane = from + (s * planes + c) * height * width;
      for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < width; ++x) {
          const double here = plane[y * width + x];
          if (x + 1 < width) out(s, at++) = plane[y * width + x + 1] - here;
          if (y + 1 < height) out(s, at++) = plane[(y + 1) * width + x] - here;
        }
      }
    }
  }
  return out;
}

MatrixXd inverse_root(const MatrixXd& symmetric) {
  const Eigen::SelfAdjointEigenSolver<MatrixXd> eigen(symmetric);
  return eigen.eigenvectors() *
         eigen.eigenvalues().cwiseMax(1e-300).cwiseSqrt().cwiseInverse().asDiagonal() *
         eigen.eigenvectors().transpose();
}

// How far a component of variance 1 is from a Gaussian: (E log cosh y - E log cosh n)^2.
double negentropy(const Eigen::Ref<const Eigen::RowVectorXd>& y) {
  constexpr double kGaussian = 0.374567;
  double sum = 0;
  for (const double v : y)
    sum += std::abs(v) + std::log1p(std::exp(-2 * std::abs(v))) - std::log(2.0);
  const double gap = sum / static_cast<double>(y.size()) - kGaussian;
  return gap * gap;
}

// FastICA on whitened rows: the rotation to independent components, from one start.
MatrixXd rotate(const MatrixXd& white, Rng& rng) {
  const Eigen::Index n = white.rows();
  MatrixXd w(n, n);
  for (Eigen::Index i = 0; i < w.size(); ++i) w.data()[i] = rng.normal();
  w = inverse_root(w * w.transpose()) * w;
  for (int step = 0; step < 200; ++step) {
    const MatrixXd g = (w * white).array().tanh();
    const VectorXd slope = (1 - g.array().square()).rowwise().mean();
    MatrixXd next = g * white.transpose() / static_cast<double>(white.cols());
    next -= slope.asDiagonal() * w;
    next = inverse_root(next * next.transpose()) * next;
    const double moved = (1 - (next * w.transpose()).diagonal().array().abs()).abs().maxCoeff();
    w = std::move(next);
    if (moved < 1e-6) break;
  }
  return w;
}

double correlation(std::span<const float> a, std::span<const float> b) {
  const auto n = static_cast<double>(a.size());
  double sa = 0, sb = 0, aa = 0, bb = 0, ab = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = a[i], y = b[i];
    sa += x;
    sb += y;
    aa += x * x;
    bb += y * y;
    ab += x * y;
  }
  const double variances = (aa - sa * sa / n) * (bb - sb * sb / n);
  return variances > 0 ? (ab - sa * sb / n) / std::sqrt(variances) : 0;
}

std::span<const float> image(const Tensor& images, int64_t i) {
  const auto size = static_cast<size_t>(images.numel() / images.dim(0));
  return images.span<float>().subspan(static_cast<size_t>(i) * size, size);
}

}  // namespace

Tensor separate(const Tensor& mixtures, int noises, bool orthogonal, Rng& rng) {
  const Eigen::Index count = mixtures.dim(0);
  const MatrixXd d = differences(mixtures);
  const MatrixXd whitening = inverse_root(d * d.transpose() / static_cast<double>(d.cols()));
  const MatrixXd white = whitening * d;
  if (!white.allFinite()) fail("the mixtures depend on each other", "separation");
  MatrixXd best;
  VectorXd score;  // of each component
  for (int start = 0; start < 5; ++start) {
    const MatrixXd w = rotate(white, rng);
    const MatrixXd y = w * white;
    VectorXd each(count);
    for (Eigen::Index i = 0; i < count; ++i) each[i] = negentropy(y.row(i));
    if (start > 0 && each.sum() <= score.sum()) continue;
    best = w * whitening;
    score = each;
  }
  if (orthogonal) best = best.rowwise().normalized();
  std::vector<Eigen::Index> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order,
                           [&](Eigen::Index a, Eigen::Index b) { return score[a] > score[b]; });
  Shape shape = mixtures.shape();
  shape.set(0, count - noises);
  Tensor out = Tensor::zeros(shape);
  const auto size = static_cast<size_t>(shape.numel() / shape[0]);
  for (size_t k = 0; k < static_cast<size_t>(count - noises); ++k) {
    std::vector<double> sum(size);
    for (Eigen::Index s = 0; s < count; ++s) {
      const auto row = image(mixtures, s);
      for (size_t i = 0; i < size; ++i) sum[i] += best(order[k], s) * row[i];
    }
    std::ranges::copy(sum, out.data<float>() + k * size);
  }
  return out;
}

Tensor components_to_images(const Tensor& components, const ImageCoding& coding, bool scale_known) {
  Tensor out = Tensor::empty(components.shape());
  const int64_t channels = components.dim(1), map = components.dim(2) * components.dim(3);
  std::vector<double> pixels(static_cast<size_t>(channels * map)), unit = pixels;
  for (int64_t i = 0; i < components.dim(0); ++i) {
    const auto values = image(components, i);
    for (size_t e = 0; e < pixels.size(); ++e) {
      const size_t c = e / static_cast<size_t>(map);
      unit[e] = coding.scale * coding.stddev[c];  // how much a pixel grows with the component
      pixels[e] = values[e] * unit[e];
    }
    const auto [low, high] = std::ranges::minmax(pixels);
    const double stretch = scale_known || high == low ? 1 : 1 / (high - low);
    const double shift = 0.5 - stretch * (low + high) / 2;
    for (size_t e = 0; e < pixels.size(); ++e) {
      out.data<float>()[static_cast<size_t>(i) * pixels.size() + e] =
          static_cast<float>(std::clamp(stretch * pixels[e] + shift, 0.0, 1.0));
    }
  }
  return out;
}

Tensor from_virtual_batches(const WorkerView& view, const AttackContext& context,
                            const std::function<Tensor(int64_t g)>& images_of_batch) {
  const Shape share = view.observed.at(0).shape();
  const int64_t groups = share[0], size = share.numel() / groups;
  Tensor out = Tensor::empty({view.inputs * groups, share[1], share[2], share[3]});
  for (int64_t g = 0; g < groups; ++g) {
    const Tensor images = images_of_batch(g);
    for (int64_t k = 0; k < view.inputs; ++k) {
      std::copy_n(images.data<float>() + k * size, size,
                  out.data<float>() + (k * groups + g) * size);
    }
    context.report(0, "virtual batch " + std::to_string(g + 1) + " of " + std::to_string(groups));
  }
  return out.rows(0, view.images);
}

Tensor as_in(const Tensor& truth, const Tensor& found, int inputs) {
  const int64_t count = truth.dim(0), groups = (count + inputs - 1) / inputs;
  Tensor out = Tensor::empty(truth.shape());
  const auto size = truth.numel() / count;
  for (int64_t g = 0; g < groups; ++g) {
    std::vector<int64_t> places;  // of this virtual batch's images; missing ones have none
    for (int64_t i = g; i < count; i += groups) places.push_back(i);
    std::vector<int64_t> order;  // candidates: components of missing images too
    for (int64_t i = g; i < found.dim(0); i += groups) order.push_back(i);
    std::vector<std::vector<double>> agreement;
    for (const int64_t p : places) {
      auto& row = agreement.emplace_back();
      for (const int64_t o : order) row.push_back(correlation(image(truth, p), image(found, o)));
    }
    std::vector<size_t> next(order.size()), best;
    std::iota(next.begin(), next.end(), size_t{0});
    double most = -1;
    do {  // K is small
      double sum = 0;
      for (size_t p = 0; p < places.size(); ++p) sum += std::abs(agreement[p][next[p]]);
      if (sum > most) best = next, most = sum;
    } while (std::ranges::next_permutation(next).found);
    for (size_t p = 0; p < places.size(); ++p) {
      const auto from = image(found, order[best[p]]);
      const bool negative = agreement[p][best[p]] < 0;
      std::ranges::transform(from, out.data<float>() + places[p] * size,
                             [&](float v) { return negative ? 1 - v : v; });
    }
  }
  return out;
}

double mean_correlation(const Tensor& truth, const Tensor& found) {
  double sum = 0;
  for (int64_t i = 0; i < truth.dim(0); ++i)
    sum += std::abs(correlation(image(truth, i), image(found, i)));
  return sum / static_cast<double>(truth.dim(0));
}

double gram_correlation(const std::vector<Tensor>& observed, const Tensor& truth, int64_t pixels,
                        Rng& rng) {
  const int64_t groups = observed.at(0).dim(0), size = observed[0].numel() / groups;
  pixels = std::min(pixels, size);
  const std::vector<int64_t> chosen = rng.permutation(size);
  double sum = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const auto matrix = [&](int64_t rows, auto value) {
      MatrixXd m(rows, pixels);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t p = 0; p < pixels; ++p) m(r, p) = value(r, chosen[static_cast<size_t>(p)]);
      }
      return m;
    };
    MatrixXd seen = matrix(std::ssize(observed), [&](int64_t s, int64_t p) {
      return observed[static_cast<size_t>(s)].data<float>()[g * size + p];
    });
    // Without the largest direction, which is the noise's.
    const Eigen::JacobiSVD<MatrixXd> svd(seen, Eigen::ComputeThinU | Eigen::ComputeThinV);
    seen -= svd.singularValues()[0] * svd.matrixU().col(0) * svd.matrixV().col(0).transpose();
    std::vector<int64_t> images;
    for (int64_t i = g; i < truth.dim(0); i += groups) images.push_back(i);
    MatrixXd real = matrix(std::ssize(images), [&](int64_t k, int64_t p) {
      return static_cast<double>(truth.data<int8_t>()[images[static_cast<size_t>(k)] * size + p]);
    });
    real.colwise() -= VectorXd(real.rowwise().mean());
    const MatrixXd a = seen.transpose() * seen, b = real.transpose() * real;
    const Eigen::ArrayXXd x = a.array() - a.mean(), y = b.array() - b.mean();
    sum += (x * y).sum() / std::sqrt(x.square().sum() * y.square().sum());
  }
  return sum / static_cast<double>(groups);
}

}  // namespace ens
