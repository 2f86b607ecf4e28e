// SPDX-License-Identifier: Apache-2.0
// How much of some sentences was read: by places, by what follows what, and by the words that
// matter.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "attacks/core/metrics.h"
#include "attacks/text/views.h"

namespace ens {

// What the sentences were.
struct TextTruth {
  std::vector<TokenTexts>
      tokens;  // a text for each vector; "" where none is asked for (begin, end)
  std::vector<std::string> lines;  // as they were written
  std::set<std::string> rare;      // words that the client's training has at most 5 times
  std::string common;              // its commonest word
};

struct TextScore {
  Interval tokens;        // right at their own places; over the sentences
  Interval rouge_l;       // F1 of the longest common subsequence (Lin, 2004)
  double bleu = 0;        // 0..100, of tokens
  double exact = 0;       // whole sentences
  double rare_words = 0;  // recall, over occurrences; NaN if there are none
  double names = 0;  // numbers and capitalised words inside sentences, which stand in for names
  double common_words = 0;  // tokens right for whoever always says the commonest word
};
// `read`: a text for each vector of each sentence.
TextScore score_reading(const TextTruth& truth, const std::vector<TokenTexts>& read, uint64_t seed);

// The chance that a pair of equal words looks more alike than a pair of different ones, by up to
// `pairs` of each, drawn by the seed from different sentences.
Interval equality_auc(const TextTruth& truth, const TextReading& reading, int64_t pairs,
                      uint64_t seed);

double rouge_l(const TokenTexts& truth, const TokenTexts& read);

}  // namespace ens
