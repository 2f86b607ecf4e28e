// SPDX-License-Identifier: Apache-2.0
// Least squares from known pairs: every position's matrix, whatever it is, and its inverse.
#include <Eigen/Cholesky>
#include <Eigen/SVD>

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
  // them at zero, and the inverse leaves out what is small.
  Eigen::MatrixXd fit(const PairSums& s) const override {
    const double ridge = 1e-9 * s.xx.trace() + 1e-3;
    const Eigen::MatrixXd regular =
        s.xx + ridge * Eigen::MatrixXd::Identity(s.xx.rows(), s.xx.cols());
    return regular.ldlt().solve(s.xy);
  }
  Eigen::MatrixXd inverse(const Eigen::MatrixXd& r) const override {
    constexpr double kSmall = 1e-3;
    const Eigen::BDCSVD<Eigen::MatrixXd> svd(r, Eigen::ComputeThinU | Eigen::ComputeThinV);
    const Eigen::VectorXd& values = svd.singularValues();
    const Eigen::VectorXd inverted = (values.array() > kSmall * values(0) && values.array() > 0)
                                         .select(values.array().max(1e-30).inverse(), 0);
    return svd.matrixV() * inverted.asDiagonal() * svd.matrixU().transpose();
  }
};

}  // namespace

std::unique_ptr<DisguiseAttack> disguise_regression_attack() {
  return std::make_unique<Regression>();
}

}  // namespace ens
