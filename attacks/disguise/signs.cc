// SPDX-License-Identifier: Apache-2.0
#include "attacks/disguise/signs.h"

#include <algorithm>
#include <cmath>

namespace ens {

Eigen::VectorXf solve_signs(const Eigen::MatrixXf& j, const Eigen::VectorXf& h) {
  constexpr int kSteps = 300;
  const Eigen::VectorXf weight =
      (j.cwiseAbs().rowwise().sum() + h.cwiseAbs()).cwiseMax(1e-20f).cwiseSqrt();
  const Eigen::VectorXf scale = weight.cwiseInverse();
  const Eigen::VectorXf to_anchor =
      h.cwiseProduct(scale) / std::sqrt(std::max(1e-20f, h.cwiseAbs().sum()));
  Eigen::VectorXf v = to_anchor;
  float anchor = 1;
  for (int step = 0; step < kSteps; ++step) {
    const Eigen::VectorXf next =
        (j * v.cwiseProduct(scale)).cwiseProduct(scale) + anchor * to_anchor + v;
    anchor += to_anchor.dot(v);
    const float size = std::sqrt(next.squaredNorm() + anchor * anchor);
    v = next / size, anchor /= size;
  }
  const auto sign = [](float value) { return value < 0 ? -1.0f : 1.0f; };
  Eigen::VectorXf s = (sign(anchor) * v).unaryExpr(sign);
  Eigen::VectorXf field = j * s + h;
  for (Eigen::Index change = 0; change < s.size(); ++change) {
    Eigen::Index worst;
    if (s.cwiseProduct(field).minCoeff(&worst) >= 0) break;
    s(worst) = -s(worst);
    field += 2 * s(worst) * j.col(worst);
  }
  return s;
}

}  // namespace ens
