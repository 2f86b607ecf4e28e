// SPDX-License-Identifier: Apache-2.0
// The matrices of `rmt` from second moments, without a pair: what a random matrix does to a block
// it does to the covariance of all blocks at its position, and that of plain blocks is known from
// public images. Known-sample PCA (Liu, Giannella, Kargupta, PKDD 2006) on blocks of images, whose
// neighbours tell the signs.
//
// y = x R, so Cov(y) = R^T Cov(x) R. With eigenvectors U of the plain covariance and W of the
// disguised one, R = U diag(s) W^T, every s +1 or -1; noise before the matrix adds the same to all
// eigenvalues and moves no eigenvector. The covariance of two neighbouring blocks, plain and
// disguised, in these bases says whether two signs agree; the means say it of single ones. For
// matrices that are not orthogonal both sides are whitened first, and instead of their covariance
// that with their neighbours gives the bases. Where blocks changed places, layout.h finds them
// first.
#include "attacks/disguise/moments.h"

#include <fmt/format.h>

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>

#include "attacks/disguise/layout.h"
#include "attacks/disguise/registry.h"
#include "attacks/disguise/signs.h"
#include "base/error.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

using Matrix = Eigen::MatrixXd;
using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Map = Eigen::Map<Rows>;

Matrix symmetric_power(const Matrix& covariance, double power) {
  const Eigen::SelfAdjointEigenSolver<Matrix> eigen(covariance);
  const double least = 1e-9 * std::max(1e-12, eigen.eigenvalues().maxCoeff());
  return eigen.eigenvectors() *
         eigen.eigenvalues().cwiseMax(least).array().pow(power).matrix().asDiagonal() *
         eigen.eigenvectors().transpose();
}

Matrix eigenvectors(const Matrix& symmetric) {  // by falling eigenvalue
  return Eigen::SelfAdjointEigenSolver<Matrix>(symmetric).eigenvectors().rowwise().reverse();
}

// Blocks [t,B,k,d] as mean, [k,d] a position, and what is left of them.
class Sample {
 public:
  explicit Sample(Tensor blocks) : blocks_(std::move(blocks)) {
    for (int64_t i = 0; i < positions(); ++i) {
      Map all = block(i);
      const Eigen::RowVectorXf mean = all.colwise().mean();
      all.rowwise() -= mean;
      means_.push_back(Eigen::Map<const Rows>(mean.data(), k(), d()).cast<double>());
    }
  }

  int64_t positions() const { return blocks_.dim(0); }
  int64_t images() const { return blocks_.dim(1); }
  int64_t k() const { return blocks_.dim(2); }
  int64_t d() const { return blocks_.dim(3); }
  const Matrix& mean(int64_t i) const { return means_[static_cast<size_t>(i)]; }
  void add_to_means(double value) {
    for (Matrix& mean : means_) mean.array() += value;
  }
  // Vectors and means times a matrix, the same at all positions if there is one.
  void multiply(const std::vector<Matrix>& by) {
    for (int64_t i = 0; i < positions(); ++i) {
      const Matrix& m = by[by.size() == 1 ? 0 : static_cast<size_t>(i)];
      Map v = vectors(i);
      v = (v * m.cast<float>()).eval();
      means_[static_cast<size_t>(i)] *= m;
    }
  }
  // Of the vectors of each position, or of all.
  std::vector<Matrix> covariances(bool shared) const {
    std::vector<Matrix> out;
    for (int64_t i = 0; i < positions(); ++i) {
      const Map v = vectors(i);
      const Matrix c = (v.transpose() * v).cast<double>() / static_cast<double>(v.rows());
      if (shared && i > 0) {
        out[0] += c;
      } else {
        out.push_back(c);
      }
    }
    if (shared) out[0] /= static_cast<double>(positions());
    return out;
  }
  // Of all elements of two positions' blocks, [k * d, k * d].
  Matrix cross(int64_t i, int64_t j) const {
    return (block(i).transpose() * block(j)).cast<double>() / static_cast<double>(images());
  }

 private:
  Map block(int64_t i) const {
    return {blocks_.data<float>() + i * images() * k() * d(), images(), k() * d()};
  }
  Map vectors(int64_t i) const {
    return {blocks_.data<float>() + i * images() * k() * d(), images() * k(), d()};
  }

  Tensor blocks_;
  std::vector<Matrix> means_;
};

// The position itself, then its neighbours on one side: each pair of neighbours is met once.
template <typename F>
void each_pair_of_neighbours(const BlockVectors& blocks, F&& f) {
  for (int64_t y = 0; y < blocks.rows(); ++y) {
    for (int64_t x = 0; x < blocks.columns(); ++x) {
      const int64_t i = y * blocks.columns() + x;
      f(i, i);
      if (x + 1 < blocks.columns()) f(i, i + 1);
      if (y + 1 == blocks.rows()) continue;
      f(i, i + blocks.columns());
      if (x > 0) f(i, i + blocks.columns() - 1);
      if (x + 1 < blocks.columns()) f(i, i + blocks.columns() + 1);
    }
  }
}

double signed_root(double v) { return v < 0 ? -std::sqrt(-v) : std::sqrt(v); }

// Of whitened vectors, which have no covariance of their own to tell directions by: what their
// means and their covariances with the other vectors of the block and with the neighbours' vectors
// make of them. Whatever rotates a position's vectors rotates it with them.
std::vector<Matrix> with_neighbours(const BlockVectors& blocks, const Sample& z, bool shared) {
  const int64_t k = z.k(), d = z.d();
  std::vector<Matrix> out(shared ? 1 : static_cast<size_t>(z.positions()), Matrix::Zero(d, d));
  const auto at = [&](int64_t i) -> Matrix& { return out[shared ? 0 : static_cast<size_t>(i)]; };
  for (int64_t i = 0; i < z.positions(); ++i) at(i) += z.mean(i).transpose() * z.mean(i);
  each_pair_of_neighbours(blocks, [&](int64_t i, int64_t j) {
    const Matrix c = z.cross(i, j);
    for (int64_t a = 0; a < k; ++a) {
      for (int64_t b = 0; b < k; ++b) {
        if (i == j && a == b) continue;
        const auto part = c.block(a * d, b * d, d, d);
        at(i) += part * part.transpose();
        if (i != j) at(j) += part.transpose() * part;
      }
    }
  });
  return out;
}

// Of every position's vectors in the bases: +1 where plain and disguised one agree. One for each of
// the d if all positions share a matrix, else one for each of the t * d.
Eigen::VectorXf signs(const BlockVectors& blocks, const Sample& x, const Sample& y, bool shared) {
  const int64_t d = x.d(), k = x.k(), nodes = shared ? d : x.positions() * d;
  Eigen::MatrixXf j = Eigen::MatrixXf::Zero(nodes, nodes);
  Eigen::VectorXf h = Eigen::VectorXf::Zero(nodes);
  const auto node = [&](int64_t i) { return shared ? 0 : i * d; };
  for (int64_t i = 0; i < x.positions(); ++i) {
    h.segment(node(i), d) += x.mean(i).cwiseProduct(y.mean(i)).colwise().sum().cast<float>();
  }
  each_pair_of_neighbours(blocks, [&](int64_t a, int64_t b) {
    const Matrix votes = x.cross(a, b).cwiseProduct(y.cross(a, b));
    Eigen::MatrixXf sum = Eigen::MatrixXf::Zero(d, d);
    for (int64_t p = 0; p < k; ++p) {
      for (int64_t q = 0; q < k; ++q) sum += votes.block(p * d, q * d, d, d).cast<float>();
    }
    j.block(node(a), node(b), d, d) += sum;
    if (a != b) j.block(node(b), node(a), d, d) += sum.transpose();
  });
  j.diagonal().setZero();
  const auto root = [](float v) { return static_cast<float>(signed_root(v)); };
  return solve_signs(j.unaryExpr(root), h.unaryExpr(root));
}

// Of plain and disguised vectors at the same positions.
Tensor matrices_of(const BlockVectors& blocks, const DisguiseConfig& disguise, Sample x, Sample y) {
  const BlockNoise noise(disguise);
  const bool rmt = disguise.method() == "rmt";
  const bool shared = rmt && disguise.rmt().share() == "all";
  const int64_t d = blocks.dims();
  x.add_to_means(noise.mean_before);
  y.add_to_means(-noise.mean_after);
  const Matrix one = Matrix::Identity(d, d);
  std::vector<Matrix> cx = x.covariances(shared), cy = y.covariances(shared);
  for (Matrix& c : cx) c += noise.variance_before * one;
  for (Matrix& c : cy) c -= noise.variance_after * one;
  std::vector<Matrix> to_x(cx.size(), one), from_y(cy.size(), one);  // x = (y from_y) Q (to_x)
  if (rmt && disguise.rmt().matrix() != "orthogonal") {
    std::vector<Matrix> white;
    for (size_t i = 0; i < cx.size(); ++i) {
      white.push_back(symmetric_power(cx[i], -0.5));
      to_x[i] = symmetric_power(cx[i], 0.5);
      from_y[i] = symmetric_power(cy[i], -0.5);
    }
    x.multiply(white);
    y.multiply(from_y);
    cx = with_neighbours(blocks, x, shared), cy = with_neighbours(blocks, y, shared);
  }
  std::vector<Matrix> u, w;
  for (size_t i = 0; i < cx.size(); ++i) {
    u.push_back(eigenvectors(cx[i]));
    w.push_back(eigenvectors(cy[i]));
  }
  x.multiply(u);
  y.multiply(w);
  const Eigen::VectorXf s = signs(blocks, x, y, shared);
  Tensor matrices = Tensor::empty({static_cast<int64_t>(cx.size()), d, d});
  for (size_t i = 0; i < cx.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const Matrix inverse = from_y[i] * w[i] * s.segment(at * d, d).cast<double>().asDiagonal() *
                           u[i].transpose() * to_x[i];
    Map(matrices.data<float>() + at * d * d, d, d) = inverse.cast<float>();
  }
  return matrices;
}

// How far mean and deviation of rebuilt images are from those of public ones, by pixel and squared.
double misfit(const Tensor& rebuilt, const Tensor& plain) {
  const auto moments = [](const Tensor& images) {
    const int64_t n = images.dim(0), size = images.numel() / n;
    const Eigen::ArrayXXd all =
        Eigen::Map<const Rows>(images.data<float>(), n, size).cast<double>().array();
    const Eigen::ArrayXd mean = all.colwise().mean(), square = all.square().colwise().mean();
    return std::pair(mean, Eigen::ArrayXd((square - mean.square()).max(0).sqrt()));
  };
  const auto [mean, deviation] = moments(rebuilt);
  const auto [wanted_mean, wanted_deviation] = moments(plain);
  return (mean - wanted_mean).square().mean() + (deviation - wanted_deviation).square().mean();
}

class Moments : public AttackOn<PublicView> {
 public:
  std::string name() const override { return "moments"; }
  std::string title() const override { return "second moments of blocks"; }
  std::string not_applicable_reason(const DisguiseSetting& setting) const override {
    return no_moments_reason(setting);
  }
  AttackCost cost(const DisguiseSetting&, const AttackConfig&) const override { return {}; }

  std::vector<Reconstruction> run_on(const PublicView& view,
                                     const AttackContext& context) override {
    return rebuilt_by_moments(view, estimates_by_moments(view, context));
  }
};

}  // namespace

std::string no_moments_reason(const DisguiseSetting& setting) {
  const BlockVectors blocks(setting.image, setting.disguise);
  const bool permuted = setting.disguise.method() == "rmt" && setting.disguise.rmt().permute();
  if (permuted && setting.disguise.rmt().matrix() != "orthogonal") {
    return "blocks changed places, and their matrices keep nothing to find them by";
  }
  if (permuted && blocks.positions() * blocks.vectors() > kMostLengths) {
    return fmt::format("{} blocks that changed places are more than the attack looks for",
                       blocks.positions());
  }
  return no_blocks_reason(setting.image, setting.row, setting.disguise);
}

std::vector<MomentsEstimate> estimates_by_moments(const PublicView& view,
                                                  const AttackContext& context) {
  constexpr int64_t kMost = 10000, kJudged = 2000;  // images of each kind
  const BlockVectors blocks(view.image, view.disguise);
  const int64_t d = blocks.dims(), k = blocks.vectors();
  const int64_t rows = std::min({kMost, view.training_rows, context.settings.observed_features()});
  const int64_t images = std::min(kMost, view.public_data->count());
  const int64_t needed = (2 * d + k - 1) / k;
  if (std::min(rows, images) < needed) {
    usage_fail(fmt::format("blocks of {} elements need {} public images and as many disguised "
                           "ones; there are {} and {}",
                           d, needed, images, rows),
               "moments", "raise attack.public_images");
  }
  context.report(0, fmt::format("{} public and {} disguised images", images, rows));
  const Tensor x = blocks.split(images_of(*view.public_data, 0, images), 255);
  const Tensor y = blocks.split(view.rows(0, rows));
  std::vector<std::vector<int64_t>> layouts = {as_they_are(blocks.positions())};
  if (view.disguise.method() == "rmt" && view.disguise.rmt().permute()) {
    context.report(0, "finding the blocks' places");
    layouts = find_layouts(blocks, view.disguise, x, y, context.seed);
  }
  std::vector<MomentsEstimate> all;
  for (const std::vector<int64_t>& place : layouts) {
    context.report(0, "matrices");
    MomentsEstimate one;
    one.inverse = {
        matrices_of(blocks, view.disguise, Sample(x.clone()), Sample(in_order(y, place))), place};
    one.misfit = misfit(
        one.inverse.apply(blocks, BlockNoise(view.disguise), view.rows(0, std::min(rows, kJudged))),
        images_of(*view.public_data, 0, images));
    all.push_back(std::move(one));
  }
  std::ranges::stable_sort(all, {}, &MomentsEstimate::misfit);
  return all;
}

std::vector<Reconstruction> rebuilt_by_moments(const PublicView& view,
                                               const std::vector<MomentsEstimate>& estimates) {
  const BlockVectors blocks(view.image, view.disguise);
  std::vector<Reconstruction> all;
  for (const MomentsEstimate& estimate : estimates) {
    Reconstruction r;
    r.candidate = fmt::format("{} public images", view.public_data->count());
    if (estimates.size() > 1) r.candidate = fmt::format("layout {}", all.size() + 1);
    r.images = estimate.inverse.apply(blocks, BlockNoise(view.disguise), view.queries);
    if (estimates.size() > 1) r.self_score = -estimate.misfit;
    all.push_back(std::move(r));
  }
  return all;
}

std::unique_ptr<DisguiseAttack> disguise_moments_attack() { return std::make_unique<Moments>(); }

}  // namespace ens
