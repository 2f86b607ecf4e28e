// SPDX-License-Identifier: Apache-2.0
// What the C interface does without a cloud; tests/edge/c_client.c and tests/install run it with
// one.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "include/ensembler/edge.h"
#include "tests/ensemble/bundles.h"

namespace ens {
namespace {

class CInterfaceTest : public testing::Test {
 protected:
  CInterfaceTest() {
    test::write(bundles_, dir_.path());
    edge_ = ens_edge_open(("bundle: '" + (dir_ / "edge.h5").string() + "'").c_str(), error_,
                          sizeof error_);
  }
  ~CInterfaceTest() override { ens_edge_close(edge_); }

  test::TempDir dir_;
  test::Bundles bundles_ = test::random_bundles(5);
  char error_[256] = "";
  ens_edge* edge_ = nullptr;
};

TEST_F(CInterfaceTest, RanksClassesBySoftmax) {
  ASSERT_NE(edge_, nullptr) << error_;
  // exp overflows a float, and nearly a double, unless the largest logit is taken off first.
  const std::vector<float> logits = {-3, 700, 699, 5, 5, 0, 698.5f, -1e30f, 1, 2};
  std::vector<ens_edge_ranked> top(10);
  ASSERT_EQ(ens_edge_top(edge_, logits.data(), 10, top.data(), error_, sizeof error_), ENS_OK);
  EXPECT_STREQ(error_, "");
  const double sum = 1 + std::exp(-1.0) + std::exp(-1.5);  // the others are below 1e-300
  EXPECT_EQ(top[0].index, 1);
  EXPECT_NEAR(top[0].probability, 1 / sum, 1e-6);
  EXPECT_EQ(top[1].index, 2);
  EXPECT_NEAR(top[1].probability, std::exp(-1.0) / sum, 1e-6);
  EXPECT_EQ(top[2].index, 6);
  EXPECT_NEAR(top[2].probability, std::exp(-1.5) / sum, 1e-6);
  EXPECT_EQ(top[9].index, 7);
  EXPECT_EQ(top[9].probability, 0);
}

TEST_F(CInterfaceTest, RefusesWhatCannotBeRanked) {
  ASSERT_NE(edge_, nullptr) << error_;
  std::vector<float> logits(10, 1.0f);
  ens_edge_ranked top[10];
  std::memset(top, 7, sizeof top);
  const std::vector<ens_edge_ranked> before(top, top + 10);
  const auto refused = [&](const float* given, int k, ens_edge_ranked* room) {
    EXPECT_EQ(ens_edge_top(edge_, given, k, room, error_, sizeof error_), ENS_INVALID_ARGUMENT);
    EXPECT_STRNE(error_, "");
    EXPECT_EQ(std::memcmp(top, before.data(), sizeof top), 0);
  };
  for (const int k : {-1, 0, 11}) refused(logits.data(), k, top);
  refused(nullptr, 3, top);
  refused(logits.data(), 3, nullptr);
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    logits[4] = bad;
    refused(logits.data(), 3, top);
  }
}

// A program that was built with a shorter, or a longer, struct gets what it has room for.
TEST_F(CInterfaceTest, TimesOfAnotherSizeAreFilledAsFarAsKnown) {
  ASSERT_NE(edge_, nullptr) << error_;
  struct {
    ens_edge_times times;
    double later;
  } longer;
  std::memset(&longer, 1, sizeof longer);
  ens_edge_last_times(edge_, &longer.times, sizeof longer);
  EXPECT_EQ(longer.times.total_ms, 0);
  EXPECT_EQ(longer.times.rounds, 0);
  EXPECT_EQ(longer.later, 0);
  std::memset(&longer, 1, sizeof longer);
  const double untouched = longer.later;
  ens_edge_last_times(edge_, &longer.times, sizeof(double));
  EXPECT_EQ(longer.times.total_ms, 0);
  EXPECT_EQ(std::memcmp(&longer.times.head_ms, &untouched, sizeof(double)), 0);
}

}  // namespace
}  // namespace ens
