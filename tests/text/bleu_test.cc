// SPDX-License-Identifier: Apache-2.0
// BLEU against cases computed by hand, and a second, naive implementation.
#include "text/model/bleu.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "nn/core/rng.h"

namespace ens {
namespace {

TEST(Tokens13a, CutsAsMtevalDoes) {
  EXPECT_EQ(tokens_13a("It costs 3,000 (about 5.5%) for a 10-km-long road."),
            (Words{"It", "costs", "3,000", "(", "about", "5.5", "%", ")", "for", "a", "10", "-",
                   "km-long", "road", "."}));
  EXPECT_EQ(tokens_13a("a.b c,d .5 5. x/y 'tis &quot;so&quot; &lt;b&gt;"),
            (Words{"a", ".", "b", "c",    ",",  "d",  ".",  "5", "5", ".",
                   "x", "/", "y", "'tis", "\"", "so", "\"", "<", "b", ">"}));
  EXPECT_EQ(tokens_13a("Zwölf Männer — ja?"), (Words{"Zwölf", "Männer", "—", "ja", "?"}));
  EXPECT_TRUE(tokens_13a(" \t ").empty());
}

TEST(Bleu, CasesByHand) {
  // Precisions 5/7, 3/6, 1/5 and 0/4, which counts as 1/(2 * 4); the hypothesis is the longer one.
  EXPECT_NEAR(corpus_bleu({"the cat the cat on the mat"}, {"the cat is on the mat"}), 30.74, 5e-3);
  // All n-grams are right, and half of the words are missing: exp(1 - 8/4).
  EXPECT_NEAR(corpus_bleu({"a b c d"}, {"a b c d e f g h"}), 36.79, 5e-3);
  // 2/4, then no match of three orders: 1/(2*3), 1/(4*2), 1/(8*1).
  EXPECT_NEAR(corpus_bleu({"a x b y"}, {"a b c d"}), 19.00, 5e-3);
  EXPECT_EQ(corpus_bleu({"x y z w"}, {"a b c d"}), 0);
  EXPECT_NEAR(corpus_bleu({"Ein Hund läuft."}, {"Ein Hund läuft."}), 100, 1e-9);
  EXPECT_LT(corpus_bleu({"ein Hund läuft ."}, {"Ein Hund läuft ."}), 100);  // with case
  EXPECT_EQ(corpus_bleu({"", ""}, {"a b", "c"}), 0);
}

TEST(Bleu, OfASentenceLeavesOutOrdersThatItCannotHave) {
  EXPECT_EQ(corpus_bleu({"good dog"}, {"good dog"}), 0);
  EXPECT_NEAR(sentence_bleu("good dog", "good dog"), 100, 1e-9);
}

// The definition again, with lists in place of counts.
double naive_bleu(const std::vector<Words>& hypotheses, const std::vector<Words>& references) {
  double log_sum = 0, smooth = 1;
  size_t h_length = 0, r_length = 0;
  for (size_t i = 0; i < hypotheses.size(); ++i) {
    h_length += hypotheses[i].size();
    r_length += references[i].size();
  }
  bool any = false;
  for (size_t n = 1; n <= 4; ++n) {
    double right = 0, total = 0;
    for (size_t i = 0; i < hypotheses.size(); ++i) {
      std::vector<Words> left;
      for (size_t at = 0; at + n <= references[i].size(); ++at) {
        left.emplace_back(references[i].begin() + static_cast<std::ptrdiff_t>(at),
                          references[i].begin() + static_cast<std::ptrdiff_t>(at + n));
      }
      for (size_t at = 0; at + n <= hypotheses[i].size(); ++at) {
        const Words gram(hypotheses[i].begin() + static_cast<std::ptrdiff_t>(at),
                         hypotheses[i].begin() + static_cast<std::ptrdiff_t>(at + n));
        ++total;
        const auto found = std::find(left.begin(), left.end(), gram);
        if (found != left.end()) left.erase(found), ++right;
      }
    }
    if (total == 0) return 0;
    any = any || right > 0;
    if (right == 0) smooth *= 2, right = 1 / smooth;
    log_sum += std::log(right / total) / 4;
  }
  if (!any) return 0;
  const double ratio = static_cast<double>(r_length) / static_cast<double>(h_length);
  return 100 * std::exp(log_sum + std::min(0.0, 1 - ratio));
}

TEST(Bleu, EqualsTheNaiveOne) {
  Rng rng(7);
  for (int corpus = 0; corpus < 200; ++corpus) {
    std::vector<Words> h, r;
    const uint64_t words = 2 + rng.below(6);
    for (uint64_t i = 0; i <= rng.below(5); ++i) {
      const auto sentence = [&] {
        Words t;
        for (uint64_t k = rng.below(12); k > 0; --k) t.push_back(std::to_string(rng.below(words)));
        return t;
      };
      h.push_back(sentence());
      r.push_back(sentence());
    }
    EXPECT_NEAR(bleu(h, r), naive_bleu(h, r), 1e-9) << corpus;
  }
}

}  // namespace
}  // namespace ens
