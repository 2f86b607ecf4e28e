// SPDX-License-Identifier: Apache-2.0
// Attacks that estimate the matrices of `rmt` from m known pairs: a curve over m.
#pragma once

#include <Eigen/Core>

#include "attacks/disguise/block_inverse.h"
#include "attacks/disguise/grant.h"

namespace ens {

// Sums over the vectors of known blocks: of the plain ones x, noise mean included, and what they
// became, y = x R + noise.
struct PairSums {
  Eigen::MatrixXd xx, xy, yy;  // x^T x, x^T y, y^T y; [d,d]
};

class PairsCurve : public AttackOn<DisguisedPairsView> {
 public:
  std::string not_applicable_reason(const DisguiseSetting& setting) const override {
    return no_blocks_reason(setting.image, setting.row, setting.disguise);
  }
  AttackCost cost(const DisguiseSetting&, const AttackConfig&) const override { return {}; }
  // With permuted blocks every position is tried for every other, and the assignment of the least
  // residuals is taken.
  std::vector<Reconstruction> run_on(const DisguisedPairsView& view,
                                     const AttackContext& context) override;

 private:
  // An estimate of what undoes R: x = y A.
  virtual Eigen::MatrixXd fit(const PairSums& sums) const = 0;
};

}  // namespace ens
