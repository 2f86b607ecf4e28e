// SPDX-License-Identifier: Apache-2.0
#include "attacks/text/metrics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace ens {
namespace {

TEST(TextMetrics, ByHand) {
  TextTruth truth;
  truth.tokens = {{"", "two", "men", "in", "paris", "￭.", ""}, {"", "a", "dog", ""}};
  truth.lines = {"Two men in Paris.", "A dog"};
  truth.rare = {"paris", "dog"};
  truth.common = "a";
  const TextScore s = score_reading(
      truth, {{"x", "two", "men", "on", "paris", "￭.", "x"}, {"", "a", "cat", ""}}, 1);
  EXPECT_NEAR(s.tokens.mean, (4.0 / 5 + 1.0 / 2) / 2, 1e-12);
  EXPECT_NEAR(s.rouge_l.mean, (4.0 / 5 + 1.0 / 2) / 2, 1e-12);
  EXPECT_EQ(s.exact, 0);
  EXPECT_NEAR(s.rare_words, 1.0 / 2, 1e-12);
  EXPECT_NEAR(s.names, 1, 1e-12);  // Paris; "Two" stands at the start
  EXPECT_NEAR(s.common_words, 1.0 / 7, 1e-12);
  EXPECT_GT(s.bleu, 0);
  const TextScore all = score_reading(truth, truth.tokens, 1);
  EXPECT_EQ(all.tokens.mean, 1);
  EXPECT_EQ(all.exact, 1);
  EXPECT_NEAR(all.bleu, 100, 1e-9);
}

TEST(TextMetrics, RougeIsTheLongestCommonSubsequence) {
  EXPECT_NEAR(rouge_l({"a", "b", "c", "d"}, {"b", "x", "d"}), 2 * 2.0 / 7, 1e-12);
  EXPECT_EQ(rouge_l({"a"}, {"b"}), 0);
  EXPECT_EQ(rouge_l({"a", "b"}, {"b", "a"}), .5);
}

TEST(TextMetrics, AucIsOneForWhoKnowsAndAHalfForWhoGuesses) {
  TextTruth truth;
  for (int i = 0; i < 60; ++i) {
    truth.tokens.push_back({"", i % 2 ? "a" : "b", i % 3 ? "c" : "d"});
    truth.lines.emplace_back();
  }
  TextReading knows, guesses;
  knows.same = [&](auto a, auto b) {
    return truth.tokens[a.first][a.second] == truth.tokens[b.first][b.second] ? 1.0 : 0.0;
  };
  guesses.same = [](auto, auto) { return 0.0; };
  EXPECT_EQ(equality_auc(truth, knows, 500, 1).mean, 1);
  EXPECT_EQ(equality_auc(truth, guesses, 500, 1).mean, .5);
}

}  // namespace
}  // namespace ens
