// SPDX-License-Identifier: Apache-2.0
#include "tests/support/gradcheck.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace ens::test {

using naive::Array;

testing::AssertionResult is_gradient(const Scalar& f, std::vector<Array> inputs, size_t which,
                                     const Array& gradient, const GradCheck& options) {
  if (!(gradient.shape == inputs[which].shape)) {
    return testing::AssertionFailure() << "the gradient has shape " << gradient.shape.str()
                                       << ", expected " << inputs[which].shape.str();
  }
  const std::vector<double> at = inputs[which].v;
  const size_t n = at.size();

  // Directions to look along: single elements first, then random ones of length about 1.
  std::vector<std::vector<double>> directions;
  const size_t count = std::min(n, static_cast<size_t>(options.elements));
  for (size_t i = 0; i < count; ++i) {
    directions.emplace_back(n, 0.0)[i * n / count] = 1;
  }
  std::mt19937 random(static_cast<uint32_t>(n));
  for (int k = 0; k < options.directions; ++k) {
    std::vector<double> d(n);
    for (double& x : d) {
      x = (random() % 2 ? 1 : -1) * (0.5 + static_cast<double>(random()) / 4294967296.0) /
          std::sqrt(static_cast<double>(n));
    }
    directions.push_back(std::move(d));
  }

  std::vector<double> numeric, claimed;
  for (const std::vector<double>& d : directions) {
    double value[2], analytic = 0;
    for (int side = 0; side < 2; ++side) {
      for (size_t i = 0; i < n; ++i) {
        inputs[which].v[i] = at[i] + (side ? -options.step : options.step) * d[i];
      }
      value[side] = f(inputs);
    }
    for (size_t i = 0; i < n; ++i) analytic += gradient.v[i] * d[i];
    numeric.push_back((value[0] - value[1]) / (2 * options.step));
    claimed.push_back(analytic);
  }

  double scale = 0;
  for (double d : numeric) scale = std::max(scale, std::fabs(d));
  if (!(scale > 1e-6)) {
    return testing::AssertionFailure() << "every numeric derivative is zero: nothing was checked";
  }
  for (size_t k = 0; k < numeric.size(); ++k) {
    if (!(std::fabs(numeric[k] - claimed[k]) <= options.tolerance * scale)) {
      return testing::AssertionFailure()
             << (k < count ? "element " + std::to_string(k * n / count)
                           : "direction " + std::to_string(k - count))
             << " of input " << which << " " << gradient.shape.str() << ": gradient " << claimed[k]
             << ", numeric " << numeric[k] << " (largest " << scale << ", tolerance "
             << options.tolerance << ")";
    }
  }
  return testing::AssertionSuccess();
}

}  // namespace ens::test
