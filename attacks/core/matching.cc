// SPDX-License-Identifier: Apache-2.0
#include "attacks/core/matching.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"

namespace ens {

MatchingScore score_matching(const Tensor& similarities, uint64_t seed) {
  const int64_t m = similarities.dim(0), g = similarities.dim(1);
  if (g < m || m == 0) fail("a gallery of " + std::to_string(g), "the matching");
  std::vector<double> first, share(static_cast<size_t>(g));  // of images, by number of guesses - 1
  MatchingScore out;
  out.gallery = g;
  for (int64_t i = 0; i < m; ++i) {
    const float* row = similarities.data<float>() + i * g;
    int64_t better = 0, equal = 0;  // others
    for (int64_t j = 0; j < g; ++j) {
      if (!std::isfinite(row[j])) fail("a similarity is not finite", "the matching");
      better += row[j] > row[i];
      equal += j != i && row[j] == row[i];
    }
    const auto among_first = [&](int64_t k) {
      return std::clamp(static_cast<double>(k - better) / static_cast<double>(equal + 1), 0.0, 1.0);
    };
    first.push_back(among_first(1));
    out.cmc5 += among_first(5) / static_cast<double>(m);
    out.cmc20 += among_first(20) / static_cast<double>(m);
    for (int64_t guess = better; guess <= better + equal; ++guess) {
      share[static_cast<size_t>(guess)] += 1 / static_cast<double>((equal + 1) * m);
    }
  }
  out.rank1 = bootstrap(first, seed);
  double sum = 0;
  constexpr double kHalf = 0.5 - 1e-9;
  for (size_t i = 0; i < share.size() && sum < kHalf; ++i) {
    sum += share[i];
    out.guesswork = static_cast<double>(i + 1);
  }
  return out;
}

Tensor pixel_similarity(const Tensor& images, const Tensor& gallery) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Map = Eigen::Map<const Matrix>;
  const int64_t m = images.dim(0), g = gallery.dim(0), d = images.numel() / m;
  if (gallery.numel() != g * d) fail("images and gallery differ in size", "the matching");
  const Map a(images.data<float>(), m, d), b(gallery.data<float>(), g, d);
  Tensor out = Tensor::empty({m, g});
  Eigen::Map<Matrix> to(out.data<float>(), m, g);
  to.noalias() = 2 * a * b.transpose();
  to.rowwise() -= b.rowwise().squaredNorm().transpose();
  return out;
}

}  // namespace ens
