// SPDX-License-Identifier: Apache-2.0
// Least squares from known pairs: for every position the linear map from what the cloud has to
// pixels. Not the matrix and then its inverse: that makes the noise of a small sample larger, while
// the direct fit knows how large pixels and noise are, and makes both as small as together they can
// be (the linear estimator of least squared error).
#include <Eigen/Cholesky>

#include "attacks/disguise/pairs_curve.h"
#include "attacks/disguise/registry.h"

namespace ens {
namespace {

class Regression : public PairsCurve {
 public:
  std::string name() const override { return "regression"; }
  std::string title() const override { return "least squares on known pairs"; }

 private:
  // Pairs may leave directions open, those in which the known blocks are flat: a little ridge keeps
  // them at zero.
  Eigen::MatrixXd fit(const PairSums& s) const override {
    const double ridge = 1e-9 * s.yy.trace() + 1e-3;
    const Eigen::MatrixXd regular =
        s.yy + ridge * Eigen::MatrixXd::Identity(s.yy.rows(), s.yy.cols());
    return regular.ldlt().solve(s.xy.transpose());
  }
};

}  // namespace

std::unique_ptr<DisguiseAttack> disguise_regression_attack() {
  return std::make_unique<Regression>();
}

}  // namespace ens
