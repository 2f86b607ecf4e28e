// SPDX-License-Identifier: Apache-2.0
#include "offload/core/assignment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <set>

namespace ens {
namespace {

// Random failures: whoever fails, in whatever order, no owner ever holds two shares of one
// encoding, and no share goes to two workers.
TEST(ShareAssignment, NoOwnerGetsASecondShareWhateverFails) {
  std::mt19937_64 random(11);
  int64_t replaced = 0, exhausted = 0;
  for (int round = 0; round < 100000; ++round) {
    const int workers = 2 + static_cast<int>(random() % 8);
    std::vector<int> owners, order(static_cast<size_t>(workers));
    for (int w = 0; w < workers; ++w)
      owners.push_back(static_cast<int>(random() % static_cast<unsigned>(workers)));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    order.resize(1 + random() % order.size());  // others lied before
    const int parties = count_owners(owners),
              needed = 1 + static_cast<int>(random() % static_cast<unsigned>(parties));
    ShareAssignment assignment(owners, order, parties);
    std::map<int, std::set<int>> shares_of;
    std::set<int> shares;
    std::vector<int> pending;
    const auto send = [&] {
      const auto next = assignment.next();
      if (!next) return false;
      EXPECT_TRUE(std::ranges::find(order, next->worker) != order.end());
      shares_of[owners[static_cast<size_t>(next->worker)]].insert(next->share);
      EXPECT_TRUE(shares.insert(next->share).second);
      EXPECT_LT(next->share, parties);
      pending.push_back(next->worker);
      return true;
    };
    for (int i = 0; i < needed; ++i) send();
    for (int done = 0; done < needed && !pending.empty();) {
      const size_t at = random() % pending.size();
      pending.erase(pending.begin() + static_cast<ptrdiff_t>(at));
      if (random() % 3 != 0) {
        ++done;
      } else if (send()) {
        ++replaced;
      } else {
        ++exhausted;
      }
    }
    for (const auto& [owner, held] : shares_of) ASSERT_EQ(held.size(), 1u);
  }
  EXPECT_GT(replaced, 10000);
  EXPECT_GT(exhausted, 10000);
}

}  // namespace
}  // namespace ens
