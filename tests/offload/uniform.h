// SPDX-License-Identifier: Apache-2.0
// Whether numbers are uniform: p-values of counts, and of p-values.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace ens::test {

// The p-value of a chi-square statistic: Wilson and Hilferty's approximation.
inline double p_value(double chi2, double freedom) {
  const double z =
      (std::cbrt(chi2 / freedom) - (1 - 2 / (9 * freedom))) / std::sqrt(2 / (9 * freedom));
  return 0.5 * std::erfc(z / std::sqrt(2.0));
}

inline double uniform_p(const std::vector<int64_t>& counts) {
  double total = 0, chi2 = 0;
  for (const int64_t c : counts) total += static_cast<double>(c);
  const double expected = total / static_cast<double>(counts.size());
  for (const int64_t c : counts)
    chi2 += (static_cast<double>(c) - expected) * (static_cast<double>(c) - expected) / expected;
  return p_value(chi2, static_cast<double>(counts.size()) - 1);
}

// P(D > d) of Kolmogorov and Smirnov's statistic for n uniform values.
inline double ks_p(std::vector<double> values) {
  std::ranges::sort(values);
  const auto n = static_cast<double>(values.size());
  double d = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    d = std::max(
        {d, values[i] - static_cast<double>(i) / n, static_cast<double>(i + 1) / n - values[i]});
  }
  const double t = d * (std::sqrt(n) + 0.12 + 0.11 / std::sqrt(n));
  double p = 0;
  for (int k = 1; k < 100; ++k) p += (k % 2 ? 2 : -2) * std::exp(-2.0 * k * k * t * t);
  return std::clamp(p, 0.0, 1.0);
}

}  // namespace ens::test
