// SPDX-License-Identifier: Apache-2.0
#include "attacks/disguise/layout.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "attacks/disguise/assignment.h"
#include "attacks/disguise/signs.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

using Matrix = Eigen::MatrixXf;
using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Places = std::vector<int64_t>;

// The logarithms of all vectors' squared lengths, [B, t * k].
Matrix log_lengths(const Tensor& vectors) {
  constexpr float kLeast = 50;  // squared grey levels: dark vectors differ in nothing but rounding
  const int64_t t = vectors.dim(0), n = vectors.dim(1), k = vectors.dim(2), d = vectors.dim(3);
  Matrix out(n, t * k);
  for (int64_t i = 0; i < t; ++i) {
    const Eigen::Map<const Rows> v(vectors.data<float>() + i * n * k * d, n * k, d);
    const Eigen::VectorXf squares = v.rowwise().squaredNorm();
    out.middleCols(i * k, k) =
        (Eigen::Map<const Rows>(squares.data(), n, k).array() + kLeast).log();
  }
  return out;
}

// What can be compared of the positions.
struct Statistics {
  int64_t t = 0, k = 0;
  Matrix own, error;                 // [t, 2 k + k k]: means, deviations, correlations; how sure
  std::vector<Matrix> correlations;  // k k times [t, t], each less its mean

  Statistics(const Matrix& lengths, int64_t positions) : t(positions), k(lengths.cols() / t) {
    const auto n = static_cast<float>(lengths.rows());
    const Eigen::RowVectorXf mean = lengths.colwise().mean();
    Matrix z = lengths.rowwise() - mean;
    const Eigen::RowVectorXf deviation = (z.colwise().squaredNorm() / n).cwiseSqrt();
    z = z * deviation.cwiseMax(1e-6f).cwiseInverse().asDiagonal();
    const Matrix all = z.transpose() * z / n;
    own = error = Matrix(t, 2 * k + k * k);
    for (int64_t a = 0; a < k; ++a) {
      for (int64_t b = 0; b < k; ++b) {
        Matrix part(t, t);
        for (int64_t i = 0; i < t; ++i) {
          for (int64_t j = 0; j < t; ++j) part(i, j) = all(i * k + a, j * k + b);
        }
        own.col(2 * k + a * k + b) = part.diagonal();
        error.col(2 * k + a * k + b) = (1 - part.diagonal().array().square()) / std::sqrt(n);
        correlations.push_back(part.array() - part.mean());
      }
      for (int64_t i = 0; i < t; ++i) {
        own(i, a) = mean(i * k + a), own(i, k + a) = deviation(i * k + a);
        error(i, a) = error(i, k + a) = deviation(i * k + a) / std::sqrt(n);
      }
    }
  }
};

Places best_assignment(const Matrix& gain) {
  std::vector<double> cost;
  for (Eigen::Index i = 0; i < gain.rows(); ++i) {
    for (Eigen::Index j = 0; j < gain.cols(); ++j) cost.push_back(-double{gain(i, j)});
  }
  return assign(cost, gain.rows());
}

Matrix as_matrix(const Places& place) {
  Matrix p = Matrix::Zero(std::ssize(place), std::ssize(place));
  for (int64_t i = 0; i < std::ssize(place); ++i) p(i, place[static_cast<size_t>(i)]) = 1;
  return p;
}

class LayoutSearch {
 public:
  LayoutSearch(const Statistics& x, const Statistics& y) : x_(x), y_(y) {
    const int64_t t = x.t, features = x.own.cols();
    const Eigen::RowVectorXf spread =
        (x.own.rowwise() - x.own.colwise().mean()).colwise().squaredNorm() / static_cast<float>(t);
    own_ = Matrix(t, t);
    for (int64_t i = 0; i < t; ++i) {
      const Eigen::RowVectorXf variance = 2 * x.error.row(i).cwiseAbs2() + kModel * spread +
                                          Eigen::RowVectorXf::Constant(features, 1e-8f);
      for (int64_t j = 0; j < t; ++j) {
        const float distance =
            (x.own.row(i) - y.own.row(j)).cwiseAbs2().cwiseQuotient(variance).mean();
        own_(i, j) = -distance / (1 + distance / kMostDistance);
      }
    }
    weight_ = kOwn * static_cast<float>(x.k * x.k * t);
  }

  // The best of several starts: half the assignment by own statistics, half all that are near; then
  // half of the latter and half chance.
  Places run(Rng& rng) const {
    const Matrix near = balanced((own_ / (2 * typical_distance())).array().exp() + 1e-12f);
    Places best = steps(0.5f * as_matrix(best_assignment(own_)) + 0.5f * near);
    for (int start = 1; start < (x_.t <= 100 ? 12 : 3); ++start) {
      Matrix chance(x_.t, x_.t);
      for (float& v : chance.reshaped()) v = static_cast<float>(rng.uniform());
      const Places other = steps(0.5f * near + 0.5f * balanced(chance));
      if (value(other) > value(best)) best = other;
    }
    return best;
  }

  // The pairs of positions that `mirror` maps to each other, kept or swapped, so that they agree.
  Places made_one(const Places& place, const Places& mirror) const;
  // Swaps two blocks as long as that helps.
  Places improved(Places place) const;

 private:
  static constexpr float kOwn = 0.001f;  // weight of a position's own statistics
  // Of own statistics: the share of their spread that the model of the noise may be wrong by, and
  // where further differences mean no more.
  static constexpr float kModel = 1e-3f, kMostDistance = 20;
  static constexpr int kTried = 10;  // swaps, of those that promise most

  // Frank and Wolfe's.
  Places steps(Matrix p) const {
    for (int step = 0; step < 40; ++step) {
      const Matrix slope = 2 * pull(p) + weight_ * own_;
      const Matrix change = as_matrix(best_assignment(slope)) - p;
      const float gain = slope.cwiseProduct(change).sum();
      if (gain <= 1e-6f * std::abs(slope.cwiseProduct(p).sum())) break;
      const float curve = change.cwiseProduct(pull(change)).sum();
      p += (curve >= 0 ? 1.0f : std::min(1.0f, -gain / (2 * curve))) * change;
    }
    return best_assignment(p);
  }

  static int64_t at(const Places& place, int64_t i) { return place[static_cast<size_t>(i)]; }
  static int64_t& at(Places& place, int64_t i) { return place[static_cast<size_t>(i)]; }

  // Of a doubly stochastic P: sum over all correlations of X P Y^T.
  Matrix pull(const Matrix& p) const {
    Matrix sum = Matrix::Zero(x_.t, x_.t);
    for (size_t c = 0; c < x_.correlations.size(); ++c) {
      sum.noalias() += x_.correlations[c] * (p * y_.correlations[c].transpose());
    }
    return sum;
  }

  float pair_value(int64_t i, int64_t j, int64_t of_i, int64_t of_j) const {
    float sum = 0;
    for (size_t c = 0; c < x_.correlations.size(); ++c) {
      sum += x_.correlations[c](i, j) * y_.correlations[c](of_i, of_j);
    }
    return sum;
  }

  double value(const Places& place) const {
    double sum = 0;
    for (int64_t i = 0; i < x_.t; ++i) {
      sum += weight_ * own_(i, at(place, i));
      for (int64_t j = 0; j < x_.t; ++j) sum += pair_value(i, j, at(place, i), at(place, j));
    }
    return sum;
  }

  // How much better both pairs fit together kept, or both swapped, than one of each.
  float agreement(const Places& place, const Places& mirror, int64_t p, int64_t q) const {
    float sum = 0;
    for (const int64_t i : {p, at(mirror, p)}) {
      for (const int64_t j : {q, at(mirror, q)}) {
        const int64_t of_i = at(place, i), of_j = at(place, j);
        const int64_t other_i = at(place, at(mirror, i)), other_j = at(place, at(mirror, j));
        sum += pair_value(i, j, of_i, of_j) + pair_value(i, j, other_i, other_j) -
               pair_value(i, j, other_i, of_j) - pair_value(i, j, of_i, other_j);
      }
    }
    return sum;
  }

  float typical_distance() const { return -own_.rowwise().maxCoeff().mean() + 1e-6f; }

  // Rows and columns of sum 1 (Sinkhorn).
  static Matrix balanced(Matrix p) {
    for (int i = 0; i < 50; ++i) {
      p = p.rowwise().sum().cwiseInverse().asDiagonal() * p;
      p = p * p.colwise().sum().cwiseInverse().asDiagonal();
    }
    return p;
  }

  bool swap_one(Places& place, const Matrix& gain) const {
    std::vector<std::pair<float, std::pair<int64_t, int64_t>>> order;
    for (int64_t i = 0; i < x_.t; ++i) {
      for (int64_t j = 0; j < i; ++j) order.push_back({gain(i, j), {i, j}});
    }
    const size_t tried = std::min<size_t>(kTried, order.size());
    std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(tried), order.end(),
                      std::greater<>());
    const double before = value(place);
    for (size_t n = 0; n < tried; ++n) {
      Places other = place;
      std::swap(at(other, order[n].second.first), at(other, order[n].second.second));
      if (value(other) <= before + 1e-6 * std::abs(before)) continue;
      place = other;
      return true;
    }
    return false;
  }

  const Statistics &x_, &y_;
  Matrix own_;  // less the squared distance of own statistics
  float weight_;
};

Places LayoutSearch::made_one(const Places& place, const Places& mirror) const {
  std::vector<int64_t> left;
  for (int64_t i = 0; i < x_.t; ++i) {
    if (i < at(mirror, i)) left.push_back(i);
  }
  const int64_t n = std::ssize(left);
  if (n < 2) return place;
  Matrix votes = Matrix::Zero(n, n);
  for (int64_t p = 0; p < n; ++p) {
    for (int64_t q = 0; q < p; ++q) {
      votes(p, q) = votes(q, p) =
          agreement(place, mirror, left[static_cast<size_t>(p)], left[static_cast<size_t>(q)]);
    }
  }
  Eigen::VectorXf field = votes.col(0);  // the first one is kept
  field(0) = votes.cwiseAbs().maxCoeff();
  votes.row(0).setZero(), votes.col(0).setZero();
  const Eigen::VectorXf sign = solve_signs(votes, field);
  Places kept = place, other = place;
  for (int64_t p = 0; p < n; ++p) {
    const int64_t i = left[static_cast<size_t>(p)];
    Places& changed = sign(p) < 0 ? kept : other;
    std::swap(at(changed, i), at(changed, at(mirror, i)));
  }
  return value(kept) >= value(other) ? kept : other;
}

Places LayoutSearch::improved(Places place) const {
  for (int64_t swaps = 0; swaps < 4 * x_.t; ++swaps) {
    const Matrix fit = 2 * pull(as_matrix(place)) + weight_ * own_;
    Matrix now(x_.t, x_.t);  // of a position with the block of another
    for (int64_t j = 0; j < x_.t; ++j) now.col(j) = fit.col(at(place, j));
    const Eigen::VectorXf stay = now.diagonal();
    const Matrix gain = ((now + now.transpose()).colwise() - stay).rowwise() - stay.transpose();
    if (!swap_one(place, gain)) return place;
  }
  return place;
}

Places mirror_of(const BlockVectors& blocks, bool across) {
  Places out;
  for (int64_t y = 0; y < blocks.rows(); ++y) {
    for (int64_t x = 0; x < blocks.columns(); ++x) {
      out.push_back(across ? y * blocks.columns() + blocks.columns() - 1 - x
                           : (blocks.rows() - 1 - y) * blocks.columns() + x);
    }
  }
  return out;
}

}  // namespace

std::vector<Places> find_layouts(const BlockVectors& blocks, const DisguiseConfig& disguise,
                                 const Tensor& x, const Tensor& y, uint64_t seed) {
  const BlockNoise noise(disguise);
  // An orthogonal matrix makes noise after it what noise before it is.
  Rng rng(seed, "noise of lengths");
  Tensor noisy = x.clone(), seen = y.clone();
  const double deviation = std::sqrt(noise.variance_before + noise.variance_after);
  for (float& v : noisy.span<float>()) {
    v += static_cast<float>(noise.mean_before + deviation * rng.normal());
  }
  for (float& v : seen.span<float>()) v -= static_cast<float>(noise.mean_after);
  const Statistics plain(log_lengths(noisy), blocks.positions());
  const Statistics disguised(log_lengths(seen), blocks.positions());
  const LayoutSearch search(plain, disguised);
  // A matrix on one side leaves the order along the other.
  std::vector<Places> mirrors;
  if (blocks.side != BlockVectors::Side::kLeft) mirrors.push_back(mirror_of(blocks, true));
  if (blocks.side != BlockVectors::Side::kRight) mirrors.push_back(mirror_of(blocks, false));
  Places found = search.run(rng);
  for (int round = 0; round < 3; ++round) {
    for (const Places& mirror : mirrors) found = search.made_one(found, mirror);
    found = search.improved(found);
  }
  std::vector<Places> all = {found};
  for (const Places& mirror : mirrors) {
    for (size_t i = 0, n = all.size(); i < n; ++i) {
      Places other(all[i].size());
      for (size_t p = 0; p < other.size(); ++p) other[p] = all[i][static_cast<size_t>(mirror[p])];
      all.push_back(other);
    }
  }
  return all;
}

}  // namespace ens
