// SPDX-License-Identifier: Apache-2.0
#include "attacks/disguise/pairs_curve.h"

#include <fmt/format.h>

#include "attacks/disguise/assignment.h"

namespace ens {
namespace {

using Matrix = Eigen::MatrixXd;
using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// The vectors of a position in the first m images, [m * k, d].
Matrix vectors_of(const Tensor& blocks, int64_t position, int64_t m) {
  const int64_t k = blocks.dim(2), d = blocks.dim(3);
  return Eigen::Map<const Rows>(blocks.data<float>() + position * blocks.dim(1) * k * d, m * k, d)
      .cast<double>();
}

PairSums sums_of(const Matrix& x, const Matrix& y) {
  return {x.transpose() * x, x.transpose() * y, y.transpose() * y};
}

double residual(const PairSums& s, const Matrix& a) {
  return s.xx.trace() - 2 * (s.xy * a).trace() + (a.transpose() * s.yy * a).trace();
}

}  // namespace

std::vector<Reconstruction> PairsCurve::run_on(const DisguisedPairsView& view,
                                               const AttackContext& context) {
  constexpr int64_t kMostToPlace = 50;  // pairs that decide where blocks went
  const BlockVectors blocks(view.image, view.disguise);
  const BlockNoise noise(view.disguise);
  const bool rmt = view.disguise.method() == "rmt";
  const bool permuted = rmt && view.disguise.rmt().permute();
  const bool shared = rmt && view.disguise.rmt().share() == "all";
  Tensor x = blocks.split(view.pair_images, 255), y = blocks.split(view.pair_rows);
  for (float& v : x.span<float>()) v += static_cast<float>(noise.mean_before);
  for (float& v : y.span<float>()) v -= static_cast<float>(noise.mean_after);
  const int64_t t = x.dim(0), d = x.dim(3);
  std::vector<Reconstruction> curve;
  for (const int64_t m : disguised_pair_counts(context.settings, view.pair_images.dim(0))) {
    BlockInverse estimate{Tensor::empty({shared ? 1 : t, d, d}), as_they_are(t)};
    if (permuted) {
      const int64_t few = std::min(m, kMostToPlace);
      std::vector<Matrix> from, to;
      for (int64_t i = 0; i < t; ++i) {
        from.push_back(vectors_of(x, i, few));
        to.push_back(vectors_of(y, i, few));
      }
      std::vector<double> cost;
      for (const Matrix& a : from) {
        for (const Matrix& b : to) {
          const PairSums sums = sums_of(a, b);
          cost.push_back(residual(sums, fit(sums)));
        }
        context.report(0, fmt::format("finding {} blocks", t));
      }
      estimate.place = assign(cost, t);
    }
    PairSums all;
    for (int64_t i = 0; i < t; ++i) {
      const PairSums sums =
          sums_of(vectors_of(x, i, m), vectors_of(y, estimate.place[static_cast<size_t>(i)], m));
      if (i == 0 || !shared) {
        all = sums;
      } else {
        all.xx += sums.xx, all.xy += sums.xy, all.yy += sums.yy;
      }
      if (shared && i + 1 < t) continue;
      Eigen::Map<Rows>(estimate.matrices.data<float>() + (shared ? 0 : i * d * d), d, d) =
          fit(all).cast<float>();
    }
    Reconstruction r;
    r.candidate = fmt::format("m = {}", m);
    r.x = static_cast<double>(m);
    r.images = estimate.apply(blocks, noise, view.queries);
    curve.push_back(std::move(r));
    context.report(0, fmt::format("{} pairs", m));
  }
  return curve;
}

}  // namespace ens
