// SPDX-License-Identifier: Apache-2.0
// Breaks a substitution cipher of words by the statistics of other sentences: how often a word is
// said, where in the sentence, and next to which others.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace ens {

struct Cipher {
  std::vector<std::vector<int32_t>> sentences;  // of codes
  int32_t codes = 0;
  std::vector<std::vector<int32_t>> text;  // of words, as the sentences would be
  int32_t words = 0;
  std::vector<int32_t> seeds;  // of each code: its word where that is known, else -1; or empty
};

// For each code its word, -1 if there is none left. Codes are matched in rounds, the commonest
// first; each round reads the neighbours that the last one named, and matches codes and words one
// to one by the log-likelihood of neighbours and places in the sentence and the difference of the
// frequencies. each_round may throw to end it.
std::vector<int32_t> decipher(const Cipher& cipher, const std::function<void()>& each_round = {});

}  // namespace ens
