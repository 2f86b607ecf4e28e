// SPDX-License-Identifier: Apache-2.0
#include "attacks/shares/lattice.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace ens {
namespace {

using Vector = std::vector<int64_t>;

class Lll {
 public:
  explicit Lll(std::vector<Vector> basis)
      : basis_(std::move(basis)),
        mu_(basis_.size(), std::vector<long double>(basis_.size())),
        r_(mu_) {}

  std::vector<Vector> reduce() {
    constexpr long double kDelta = 0.99L;
    constexpr int64_t kMostSteps = 10'000'000;
    orthogonalise(0);
    int64_t steps = 0;
    for (size_t k = 1; k < basis_.size(); ++steps) {
      if (steps > kMostSteps) fail("the reduction does not end", "lattice reduction");
      shorten(k);
      const long double coefficient = mu_[k][k - 1];
      if (r_[k][k] >= (kDelta - coefficient * coefficient) * r_[k - 1][k - 1]) {
        ++k;
        continue;
      }
      std::swap(basis_[k], basis_[k - 1]);
      orthogonalise(k - 1);
      k = std::max<size_t>(k - 1, 1);
    }
    return std::move(basis_);
  }

 private:
  // Row k of the Gram-Schmidt coefficients, from exact inner products; the rows before it hold.
  void orthogonalise(size_t k) {
    for (size_t j = 0; j <= k; ++j) {
      __int128 product = 0;
      for (size_t i = 0; i < basis_[k].size(); ++i)
        product += static_cast<__int128>(basis_[k][i]) * basis_[j][i];
      long double r = static_cast<long double>(product);
      for (size_t i = 0; i < j; ++i) r -= mu_[j][i] * r_[k][i];
      r_[k][j] = r;
      mu_[k][j] = r / r_[j][j];
    }
  }

  // Subtracts earlier rows from row k until no coefficient is above a half.
  void shorten(size_t k) {
    for (bool changed = true; changed;) {
      changed = false;
      orthogonalise(k);
      for (size_t j = k; j-- > 0;) {
        const long double q = std::roundl(mu_[k][j]);
        if (q == 0) continue;
        changed = changed || std::fabs(mu_[k][j]) > 0.51L;
        for (size_t i = 0; i < basis_[k].size(); ++i)
          basis_[k][i] -= static_cast<int64_t>(q) * basis_[j][i];
        for (size_t i = 0; i < j; ++i) mu_[k][i] -= q * mu_[j][i];
        mu_[k][j] -= q;
      }
    }
  }

  std::vector<Vector> basis_;
  std::vector<std::vector<long double>> mu_, r_;  // r[k][j] = mu[k][j] |b*_j|^2
};

}  // namespace

std::vector<Vector> reduce_lll(std::vector<Vector> basis) { return Lll(std::move(basis)).reduce(); }

}  // namespace ens
