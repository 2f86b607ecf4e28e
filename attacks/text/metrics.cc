// SPDX-License-Identifier: Apache-2.0
#include "attacks/text/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "base/error.h"
#include "base/utf8.h"
#include "nn/core/rng.h"
#include "text/model/bleu.h"

namespace ens {
namespace {

const std::string kNoWord = "<unk>";

// Numbers, and words that are written with a capital elsewhere than at the start: in lower case.
std::set<std::string> names_in(const std::string& line) {
  std::set<std::string> names;
  const std::u32string text = decode_utf8(line);
  bool first = true;
  for (size_t at = 0; at < text.size();) {
    if (!is_letter_or_digit(text[at])) {
      ++at;
      continue;
    }
    std::u32string word;
    while (at < text.size() && is_letter_or_digit(text[at])) word += text[at++];
    if (is_digit(word[0]) || (!first && is_upper(word[0]))) {
      names.insert(lower_case(encode_utf8(word)));
    }
    first = false;
  }
  return names;
}

double share(double part, double all) {
  return all > 0 ? part / all : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

double rouge_l(const TokenTexts& truth, const TokenTexts& read) {
  if (truth.empty() || read.empty()) return truth.empty() && read.empty();
  std::vector<size_t> before(read.size() + 1), now(read.size() + 1);
  for (const std::string& word : truth) {
    for (size_t j = 0; j < read.size(); ++j) {
      now[j + 1] = word == read[j] ? before[j] + 1 : std::max(before[j + 1], now[j]);
    }
    before.swap(now);
  }
  return 2 * static_cast<double>(before.back()) / static_cast<double>(truth.size() + read.size());
}

TextScore score_reading(const TextTruth& truth, const std::vector<TokenTexts>& read,
                        uint64_t seed) {
  if (read.size() != truth.tokens.size()) {
    fail(std::to_string(read.size()) + " sentences were read, and there are " +
             std::to_string(truth.tokens.size()),
         "attack");
  }
  std::vector<double> right, rouge;
  std::vector<std::vector<std::string>> kept_truth, kept_read;
  double exact = 0, rare = 0, rare_read = 0, names = 0, names_read = 0, common = 0, all = 0;
  for (size_t s = 0; s < read.size(); ++s) {
    if (read[s].size() != truth.tokens[s].size())
      fail("a sentence was read in another length", "attack");
    TokenTexts want, got;
    double hits = 0;
    const std::set<std::string> special = names_in(truth.lines[s]);
    for (size_t i = 0; i < read[s].size(); ++i) {
      const std::string& word = truth.tokens[s][i];
      if (word.empty()) continue;
      const bool hit = read[s][i] == word;
      want.push_back(word);
      got.push_back(read[s][i]);
      hits += hit;
      common += word == truth.common;
      ++all;
      if (word == kNoWord) continue;
      if (truth.rare.contains(word)) ++rare, rare_read += hit;
      if (special.contains(word)) ++names, names_read += hit;
    }
    if (want.empty()) continue;
    right.push_back(hits / static_cast<double>(want.size()));
    rouge.push_back(rouge_l(want, got));
    exact += hits == static_cast<double>(want.size());
    kept_truth.push_back(std::move(want));
    kept_read.push_back(std::move(got));
  }
  TextScore out;
  out.tokens = bootstrap(right, seed);
  out.rouge_l = bootstrap(rouge, seed);
  out.bleu = bleu(kept_read, kept_truth);
  out.exact = share(exact, static_cast<double>(right.size()));
  out.rare_words = share(rare_read, rare);
  out.names = share(names_read, names);
  out.common_words = share(common, all);
  return out;
}

Interval equality_auc(const TextTruth& truth, const TextReading& reading, int64_t pairs,
                      uint64_t seed) {
  using Place = std::pair<size_t, size_t>;
  std::map<std::string, std::vector<Place>> places;
  std::vector<Place> all;
  for (size_t s = 0; s < truth.tokens.size(); ++s) {
    for (size_t i = 0; i < truth.tokens[s].size(); ++i) {
      if (truth.tokens[s][i].empty()) continue;
      places[truth.tokens[s][i]].emplace_back(s, i);
      all.emplace_back(s, i);
    }
  }
  if (all.empty()) fail("there are no words to compare", "equality");
  Rng rng(seed, "pairs of words");
  std::vector<double> same, other;
  for (int64_t tries = 0; tries < 50 * pairs; ++tries) {
    const bool more_same = std::ssize(same) < pairs, more_other = std::ssize(other) < pairs;
    if (!more_same && !more_other) break;
    const Place a = all[rng.below(all.size())];
    const auto& alike = places[truth.tokens[a.first][a.second]];
    const Place b = tries % 2 ? all[rng.below(all.size())] : alike[rng.below(alike.size())];
    if (a.first == b.first) continue;
    const bool equal = truth.tokens[a.first][a.second] == truth.tokens[b.first][b.second];
    if (equal ? more_same : more_other) (equal ? same : other).push_back(reading.same(a, b));
  }
  if (same.empty() || other.empty()) fail("no word occurs in two sentences", "equality");
  std::ranges::sort(other);
  std::vector<double> wins;
  for (const double value : same) {
    const auto [low, high] = std::equal_range(other.begin(), other.end(), value);
    wins.push_back(
        (static_cast<double>(low - other.begin()) + static_cast<double>(high - low) / 2) /
        static_cast<double>(other.size()));
  }
  return bootstrap(wins, seed);
}

}  // namespace ens
