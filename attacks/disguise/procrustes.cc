// SPDX-License-Identifier: Apache-2.0
// Orthogonal Procrustes on known pairs (Schoenemann 1966): R = U V^T of X^T Y = U S V^T, which asks
// for far fewer pairs than least squares.
#include <Eigen/SVD>

#include "attacks/disguise/pairs_curve.h"
#include "attacks/disguise/registry.h"

namespace ens {
namespace {

class Procrustes : public PairsCurve {
 public:
  std::string name() const override { return "procrustes"; }
  std::string title() const override { return "Procrustes on known pairs"; }
  std::string not_applicable_reason(const DisguiseSetting& setting) const override {
    if (setting.disguise.method() == "rmt" && setting.disguise.rmt().matrix() != "orthogonal") {
      return "the matrices are not orthogonal";
    }
    return PairsCurve::not_applicable_reason(setting);
  }

 private:
  Eigen::MatrixXd fit(const PairSums& s) const override {
    const Eigen::BDCSVD<Eigen::MatrixXd> svd(s.xy, Eigen::ComputeThinU | Eigen::ComputeThinV);
    return svd.matrixV() * svd.matrixU().transpose();
  }
};

}  // namespace

std::unique_ptr<DisguiseAttack> disguise_procrustes_attack() {
  return std::make_unique<Procrustes>();
}

}  // namespace ens
