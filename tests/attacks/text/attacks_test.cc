// SPDX-License-Identifier: Apache-2.0
// The attacks on a planted cipher with a known answer, and on controls where there is nothing to
// read.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "attacks/text/codes.h"
#include "attacks/text/decipher.h"
#include "attacks/text/metrics.h"
#include "attacks/text/registry.h"
#include "base/threads.h"
#include "nn/core/rng.h"
#include "nn/modules/seq2seq.h"

namespace ens {
namespace {

constexpr int kWords = 250, kFollowers = 8;
constexpr int64_t kWidth = 24;

// A language: how often words are said, and which ones follow which.
class Language {
 public:
  explicit Language(uint64_t seed) : rng_(seed) {
    for (int w = 0; w < kWords; ++w) {
      for (int k = 0; k < kFollowers; ++k) followers_[w][k] = draw();
    }
  }
  std::vector<int> sentence() {
    std::vector<int> out{draw()};
    for (uint64_t k = 4 + rng_.below(9); k > 0; --k) {
      const int likely = followers_[out.back()][static_cast<int>(static_cast<double>(kFollowers) *
                                                                 std::pow(rng_.uniform(), 1.5))];
      out.push_back(rng_.uniform() < .85 ? likely : draw());
    }
    return out;
  }

 private:
  int draw() {  // Zipf
    return static_cast<int>(std::pow(static_cast<double>(kWords), rng_.uniform())) - 1;
  }
  Rng rng_;
  int followers_[kWords][kFollowers];
};

std::string word(int w) { return "w" + std::to_string(w); }

struct Planted {
  TextVictim victim;
  TextTruth truth;
};

// 5,000 observed sentences and as many public ones. What is sent: row + PE + noise.
Planted plant(double fixed, double fresh, bool cipher = true, int sentences = 5000) {
  Language language(3);
  Rng rng(5);
  Tensor table = Tensor::empty({kWords + 2, kWidth}), places = Tensor::empty({32, kWidth});
  rng.fill_normal(table.span<float>(), 0, 1);
  rng.fill_normal(places.span<float>(), 0, static_cast<float>(fixed));
  const Tensor positions = sinusoid_positions(32, kWidth);
  const int begin = kWords, end = kWords + 1;
  const auto rows_of = [&](const std::vector<int>& words) {
    std::vector<int> rows{begin};
    rows.insert(rows.end(), words.begin(), words.end());
    rows.push_back(end);
    return rows;
  };
  const auto send = [=](const std::vector<int>& rows, Rng& noise) {
    Tensor x = Tensor::empty({std::ssize(rows), kWidth});
    for (int64_t i = 0; i < x.dim(0); ++i) {
      for (int64_t d = 0; d < kWidth; ++d) {
        x.data<float>()[i * kWidth + d] =
            table.data<float>()[rows[static_cast<size_t>(i)] * kWidth + d] +
            positions.data<float>()[i * kWidth + d] + places.data<float>()[i * kWidth + d] +
            static_cast<float>(fresh * noise.normal());
      }
      // The control: every token has a vector of its own.
      if (!cipher && i > 0) {
        for (int64_t d = 0; d < kWidth; ++d) {
          x.data<float>()[i * kWidth + d] = static_cast<float>(noise.normal());
        }
      }
    }
    return x;
  };
  const auto texts_of = [=](const std::vector<int>& rows) {
    TokenTexts texts;
    for (const int r : rows) texts.push_back(r == begin ? "<bos>" : r == end ? "<eos>" : word(r));
    return texts;
  };
  Planted p;
  p.victim.scored = 200;
  for (int i = 0; i < sentences; ++i) {
    const auto rows = rows_of(language.sentence());
    p.victim.observed.push_back(send(rows, rng));
    if (i >= p.victim.scored) continue;
    TokenTexts texts = texts_of(rows);
    texts.front() = texts.back() = "";
    p.truth.tokens.push_back(texts);
    p.truth.lines.emplace_back();
  }
  std::vector<std::vector<int>> own;
  for (int i = 0; i < 5000; ++i) {
    own.push_back(rows_of(language.sentence()));
    p.victim.public_text.push_back(texts_of(own.back()));
  }
  p.truth.common = word(0);
  p.victim.table = table;
  for (int w = 0; w < kWords + 2; ++w) p.victim.words.push_back(texts_of({w})[0]);
  p.victim.send = [=](int64_t first, int64_t count) {
    Rng noise(9);
    TextPairs pairs;
    for (int64_t i = first; i < first + count; ++i) {
      pairs.tokens.push_back(texts_of(own[static_cast<size_t>(i)]));
      pairs.features.push_back(send(own[static_cast<size_t>(i)], noise));
    }
    return pairs;
  };
  return p;
}

class TextAttacks : public testing::Test {
 protected:
  TextAttacks() { set_compute_threads(1); }
  std::vector<TextReading> run(const std::string& attack, const Planted& p) {
    return make_text_attack(attack)->run(p.victim, {});
  }
  double tokens(const std::string& attack, const Planted& p) {
    return score_reading(p.truth, run(attack, p).back().tokens, 1).tokens.mean;
  }
};

TEST_F(TextAttacks, TheCodebookBreaksThePlantedCipher) {
  EXPECT_GE(tokens("codebook", plant(0, 0)), .95);
  EXPECT_GE(tokens("codebook", plant(.5, 0)), .95);   // the same noise for every sentence
  EXPECT_GE(tokens("codebook", plant(0, .15)), .95);  // drawn anew for every token
}

TEST_F(TextAttacks, WithoutACipherThereIsNothingToRead) {
  const Planted p = plant(0, 0, false, 1000);
  EXPECT_LT(tokens("codebook", p), .12);
  EXPECT_NEAR(equality_auc(p.truth, run("equality", p)[0], 5000, 1).mean, .5, .03);
}

TEST_F(TextAttacks, EqualWordsAreSeenThroughFixedNoise) {
  const Planted p = plant(.5, 0);
  EXPECT_GT(equality_auc(p.truth, run("equality", p)[0], 5000, 1).mean, .95);
}

TEST_F(TextAttacks, CodesOfFixedNoiseAreTheWords) {
  const Planted p = plant(2, 0);
  const TextCodes codes = find_codes(p.victim.observed);
  EXPECT_EQ(codes.sigma, 0);
  std::map<std::string, std::set<int32_t>> of_word;
  for (size_t s = 0; s < p.truth.tokens.size(); ++s) {
    for (size_t i = 1; i + 1 < p.truth.tokens[s].size(); ++i) {
      of_word[p.truth.tokens[s][i]].insert(codes.sentences[s][i]);
    }
  }
  for (const auto& [word, seen] : of_word) EXPECT_EQ(seen.size(), 1u) << word;
}

TEST_F(TextAttacks, KnownPairsAreADictionary) {
  const Planted p = plant(.5, 0);
  const std::vector<TextReading> curve = run("known-pairs", p);
  ASSERT_EQ(curve.size(), 4u);
  EXPECT_EQ(curve[3].candidate, "m = 1000");
  EXPECT_GE(score_reading(p.truth, curve[3].tokens, 1).tokens.mean, .99);
}

TEST_F(TextAttacks, WhoHasTheEmbeddingReadsEverything) {
  EXPECT_EQ(tokens("nearest", plant(0, 0)), 1);
  EXPECT_LT(tokens("nearest", plant(4, 0)), .5);  // noise four times as large as the rows
}

TEST_F(TextAttacks, TheOracleReadsEverythingThatItHasHeard) {
  EXPECT_GE(tokens("oracle", plant(0, 0)), .999);
}

}  // namespace
}  // namespace ens
