// SPDX-License-Identifier: Apache-2.0
// The search against loops that look at every sentence there is.
#include "text/model/search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "nn/core/rng.h"
#include "text/model/tokeniser.h"

namespace ens {
namespace {

constexpr int64_t kWords = 7;

// Logits that follow from the sentence and the prefix alone.
std::vector<float> logits_of(int sentence, std::span<const int32_t> prefix) {
  uint64_t key = 1000003 + static_cast<uint64_t>(sentence);
  for (const int32_t token : prefix) key = key * 1000003 + static_cast<uint64_t>(token);
  Rng rng(key);
  std::vector<float> out;
  for (int64_t i = 0; i < kWords; ++i) out.push_back(static_cast<float>(2 * rng.normal()));
  return out;
}

Tensor next(std::span<const int> sentence, const Tensor& prefixes) {
  Tensor out = Tensor::empty({prefixes.dim(0), kWords});
  const int64_t length = prefixes.dim(1);
  for (int64_t i = 0; i < prefixes.dim(0); ++i) {
    const auto row =
        logits_of(sentence[static_cast<size_t>(i)],
                  {prefixes.data<int32_t>() + i * length, static_cast<size_t>(length)});
    std::ranges::copy(row, out.data<float>() + i * kWords);
  }
  return out;
}

std::vector<int32_t> greedy(int sentence, int64_t longest) {
  std::vector<int32_t> prefix{kBegin};
  while (std::ssize(prefix) - 1 < longest) {
    const auto row = logits_of(sentence, prefix);
    const auto best = static_cast<int32_t>(std::ranges::max_element(row) - row.begin());
    if (best == kEnd) break;
    prefix.push_back(best);
  }
  return {prefix.begin() + 1, prefix.end()};
}

// The best of all sentences, by their score.
void look_at_all(int sentence, std::vector<int32_t> prefix, double log_p, int64_t longest,
                 double alpha, double& best, std::vector<int32_t>& found) {
  const auto row = logits_of(sentence, prefix);
  double total = 0;
  for (const float x : row) total += std::exp(x);
  for (int32_t token = 0; token < kWords; ++token) {
    const double p = log_p + row[static_cast<size_t>(token)] - std::log(total);
    std::vector<int32_t> more = prefix;
    more.push_back(token);
    const auto length = static_cast<double>(more.size() - 1);
    if (token == kEnd || std::ssize(more) - 1 == longest) {
      const double score = p / std::pow((5 + length) / 6, alpha);
      if (found.empty() || score > best) best = score, found = more;
    } else {
      look_at_all(sentence, more, p, longest, alpha, best, found);
    }
  }
}

const std::vector<int64_t> kSourceWords{3, 1, 2, 4, 2, 3};

TEST(Search, ABeamOfOneIsGreedy) {
  const auto found = search_translations(kSourceWords, {.beam = 1, .extra_tokens = 5}, next);
  for (size_t i = 0; i < kSourceWords.size(); ++i) {
    EXPECT_EQ(found[i], greedy(static_cast<int>(i), kSourceWords[i] + 5)) << i;
  }
  const auto cut =
      search_translations(kSourceWords, {.beam = 1, .extra_tokens = 5, .max_tokens = 3}, next);
  for (size_t i = 0; i < kSourceWords.size(); ++i) {
    EXPECT_EQ(cut[i], greedy(static_cast<int>(i), 3)) << i;
  }
}

// Wide enough to hold every prefix of so short sentences.
TEST(Search, AWideBeamFindsTheBestSentenceOfAll) {
  for (const double alpha : {0.0, 0.6, 2.0}) {
    const auto found =
        search_translations(std::vector<int64_t>(20, 2),
                            {.beam = 400, .length_penalty = alpha, .extra_tokens = 1}, next);
    for (int i = 0; i < 20; ++i) {
      double best = 0;
      std::vector<int32_t> want;
      look_at_all(i, {kBegin}, 0, 3, alpha, best, want);
      want.erase(want.begin());
      if (want.back() == kEnd) want.pop_back();
      EXPECT_EQ(found[static_cast<size_t>(i)], want) << i << " alpha " << alpha;
    }
  }
}

TEST(Search, SentencesDoNotDisturbEachOther) {
  const auto together = search_translations(kSourceWords, {.beam = 4}, next);
  for (size_t i = 0; i < kSourceWords.size(); ++i) {
    const auto alone =
        search_translations(std::vector{kSourceWords[i]}, {.beam = 4},
                            [&](std::span<const int> sentence, const Tensor& prefixes) {
                              const std::vector<int> mine(sentence.size(), static_cast<int>(i));
                              return next(mine, prefixes);
                            });
    EXPECT_EQ(alone[0], together[i]) << i;
  }
}

TEST(Search, EqualScoresGoToTheLowerToken) {
  const auto flat = [](std::span<const int>, const Tensor& prefixes) {
    return Tensor::zeros({prefixes.dim(0), kWords});
  };
  const std::vector<int64_t> words{2};
  EXPECT_EQ(search_translations(words, {.beam = 1, .extra_tokens = 0}, flat)[0],
            (std::vector<int32_t>{0, 0}));
}

TEST(Search, TellsGreedyTokensAsTheyAreSettled) {
  std::vector<std::vector<int32_t>> heard(kSourceWords.size());
  const auto found = search_translations(
      kSourceWords, {.beam = 1}, next,
      [&](int sentence, int32_t token) { heard[static_cast<size_t>(sentence)].push_back(token); });
  EXPECT_EQ(heard, found);
}

}  // namespace
}  // namespace ens
