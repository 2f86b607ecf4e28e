// SPDX-License-Identifier: Apache-2.0
// The assignment of least cost, against all permutations.
#include "attacks/disguise/assignment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

double cost_of(const std::vector<double>& cost, const std::vector<int64_t>& columns) {
  double sum = 0;
  for (size_t row = 0; row < columns.size(); ++row) {
    sum += cost[row * columns.size() + static_cast<size_t>(columns[row])];
  }
  return sum;
}

TEST(Assignment, IsTheBestOfAllPermutations) {
  Rng rng(3);
  for (int64_t n = 1; n <= 7; ++n) {
    for (int trial = 0; trial < 20; ++trial) {
      std::vector<double> cost(static_cast<size_t>(n * n));
      // Ties, and negative costs.
      for (double& c : cost) c = static_cast<double>(rng.below(trial % 2 ? 4 : 1000)) - 2;
      std::vector<int64_t> order(static_cast<size_t>(n));
      std::iota(order.begin(), order.end(), 0);
      double least = std::numeric_limits<double>::infinity();
      do {
        least = std::min(least, cost_of(cost, order));
      } while (std::ranges::next_permutation(order).found);
      std::vector<int64_t> found = assign(cost, n);
      EXPECT_DOUBLE_EQ(cost_of(cost, found), least);
      std::ranges::sort(found);
      std::iota(order.begin(), order.end(), 0);
      EXPECT_EQ(found, order);
    }
  }
}

TEST(Assignment, RefusesCostsThatAreNotFinite) {
  const std::vector<double> cost(4, std::numeric_limits<double>::quiet_NaN());
  EXPECT_THROW(assign(cost, 2), Error);
}

}  // namespace
}  // namespace ens
