// SPDX-License-Identifier: Apache-2.0
#include "ensemble/model/selector.h"

#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <map>
#include <set>

#include "base/error.h"

namespace ens {
namespace {

TEST(Selector, KeepsDistinctIndicesSorted) {
  const Selector selector(5, {4, 0, 2});
  EXPECT_EQ(selector.selected(), (std::vector<int>{0, 2, 4}));
  EXPECT_EQ(selector.count(), 3);
  EXPECT_EQ(selector.nets(), 5);
}

TEST(Selector, RefusesTheImpossibleWithoutShowingIt) {
  for (const auto& bad : {std::vector<int>{}, {5}, {-1}, {2, 2}, {0, 1, 2, 3, 4, 0}}) {
    try {
      Selector(5, bad);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      for (char c : std::string(error.what()))
        EXPECT_FALSE(std::isdigit(c) && c != '1') << error.what();
    }
  }
  EXPECT_THROW(Selector::draw(4, 5), Error);
  EXPECT_THROW(Selector::draw(4, 0), Error);
  EXPECT_THROW(Selector::draw(0, 0), Error);
}

TEST(Selector, DrawsEverySubsetEquallyOften) {
  std::map<std::vector<int>, int> seen;
  constexpr int kDraws = 6000;
  for (int i = 0; i < kDraws; ++i) ++seen[Selector::draw(4, 2).selected()];
  ASSERT_EQ(seen.size(), 6u);
  double chi2 = 0;
  for (const auto& [subset, count] : seen)
    chi2 += std::pow(count - kDraws / 6.0, 2) / (kDraws / 6.0);
  EXPECT_LT(chi2, 40);  // 5 degrees of freedom: beyond 40 once in ten million runs
}

TEST(Selector, SeededIsReproducibleAndVaries) {
  EXPECT_EQ(Selector::seeded(10, 4, 3).selected(), Selector::seeded(10, 4, 3).selected());
  std::set<std::vector<int>> seen;
  for (uint64_t seed = 0; seed < 20; ++seed) seen.insert(Selector::seeded(10, 4, seed).selected());
  EXPECT_GT(seen.size(), 10u);
}

TEST(Selector, CombinesBySpecification) {
  // y = concat_i(S_i f_i), S_i = 1/P for the selected, their blocks only; [N=3, B=2, C=2, W=2].
  std::vector<float> values(3 * 2 * 2 * 2);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * i);
  const Tensor answers = Tensor::from(values, {3, 2, 2, 2});
  const Tensor out = Selector(3, {0, 2}).combine(answers);
  ASSERT_EQ(out.shape(), (Shape{2, 4, 2}));
  const auto at = [&](int n, int b, int c, int w) { return values[((n * 2 + b) * 2 + c) * 2 + w]; };
  const std::vector<float> got = out.to_vector();
  size_t i = 0;
  for (int b = 0; b < 2; ++b) {
    for (int n : {0, 2}) {
      for (int c = 0; c < 2; ++c) {
        for (int w = 0; w < 2; ++w) EXPECT_EQ(got[i++], at(n, b, c, w) / 2);
      }
    }
  }
  EXPECT_THROW(Selector(4, {0}).combine(answers), Error);
}

}  // namespace
}  // namespace ens
