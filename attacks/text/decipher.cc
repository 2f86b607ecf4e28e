// SPDX-License-Identifier: Apache-2.0
#include "attacks/text/decipher.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "nn/core/backend.h"

namespace ens {
namespace {

constexpr int64_t kFromStart = 8, kFromEnd = 4;  // places that are told apart, and one for the rest
constexpr int64_t kPlaces = kFromStart + kFromEnd + 2;
constexpr int64_t kMostAnchors = 1000;
constexpr int kRoundsOfStage = 3, kLastRounds = 10;  // of the stage with all codes

// Symbols of sentences: counts, by falling count; neighbours and places of each occurrence.
struct Corpus {
  const std::vector<std::vector<int32_t>>& sentences;
  std::vector<double> counts;
  std::vector<int32_t> order;
  double total = 0;

  Corpus(const std::vector<std::vector<int32_t>>& s, int32_t symbols)
      : sentences(s), counts(static_cast<size_t>(symbols)), order(static_cast<size_t>(symbols)) {
    for (const auto& sentence : s) {
      for (const int32_t symbol : sentence) ++counts[static_cast<size_t>(symbol)], ++total;
    }
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, [this](int32_t a, int32_t b) {
      return counts[static_cast<size_t>(a)] > counts[static_cast<size_t>(b)];
    });
  }

  // [n, 2 * (anchors + 1) + kPlaces]: of each of the n symbols how often each anchor (or another
  // symbol) stands to its left and right, and where it stands. row[symbol], anchor[symbol]: -1
  // none.
  Tensor statistics(const std::vector<int32_t>& row, int64_t n, const std::vector<int32_t>& anchor,
                    int64_t anchors) const {
    const int64_t side = anchors + 1, columns = 2 * side + kPlaces;
    Tensor out = Tensor::zeros({n, columns});
    for (const auto& sentence : sentences) {
      const auto length = std::ssize(sentence);
      for (int64_t i = 0; i < length; ++i) {
        const int32_t r = row[static_cast<size_t>(sentence[static_cast<size_t>(i)])];
        if (r < 0) continue;
        float* to = out.data<float>() + r * columns;
        const auto at = [&](int64_t k) {
          const int32_t a = anchor[static_cast<size_t>(sentence[static_cast<size_t>(k)])];
          return a < 0 ? anchors : a;
        };
        if (i > 0) ++to[at(i - 1)];
        if (i + 1 < length) ++to[side + at(i + 1)];
        ++to[2 * side + std::min(i, kFromStart)];
        ++to[2 * side + kFromStart + 1 + std::min(length - 1 - i, kFromEnd)];
      }
    }
    return out;
  }
};

// log p(column | word), smoothed by what all words have there.
void to_log_probabilities(Tensor& counts, int64_t side) {
  const int64_t n = counts.dim(0), columns = counts.dim(1);
  const std::array<std::pair<int64_t, int64_t>, 4> blocks{{{0, side},
                                                           {side, 2 * side},
                                                           {2 * side, 2 * side + kFromStart + 1},
                                                           {2 * side + kFromStart + 1, columns}}};
  for (const auto& [begin, end] : blocks) {
    std::vector<double> all(static_cast<size_t>(end - begin), 0.1);
    double total = 0.1 * static_cast<double>(end - begin);
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t c = begin; c < end; ++c) {
        all[static_cast<size_t>(c - begin)] += counts.data<float>()[r * columns + c];
        total += counts.data<float>()[r * columns + c];
      }
    }
    for (int64_t r = 0; r < n; ++r) {
      float* row = counts.data<float>() + r * columns;
      double sum = 0;
      for (int64_t c = begin; c < end; ++c) sum += row[c];
      constexpr double kPrior = 2;  // imagined occurrences
      for (int64_t c = begin; c < end; ++c) {
        const double background = all[static_cast<size_t>(c - begin)] / total;
        row[c] = static_cast<float>(std::log((row[c] + kPrior * background) / (sum + kPrior)));
      }
    }
  }
}

class Solver {
 public:
  explicit Solver(const Cipher& cipher)
      : cipher_(cipher),
        codes_(cipher.sentences, cipher.codes),
        words_(cipher.text, cipher.words),
        fixed_(static_cast<size_t>(cipher.codes), -1),
        fixed_word_(static_cast<size_t>(cipher.words), 0) {
    for (size_t c = 0; c < cipher.seeds.size(); ++c) {
      fixed_[c] = cipher.seeds[c];
      if (fixed_[c] >= 0) fixed_word_[static_cast<size_t>(fixed_[c])] = 1;
    }
    word_of_ = fixed_;
  }

  std::vector<int32_t> run(const std::function<void()>& each_round) {
    const int64_t all = cipher_.codes;
    for (int64_t k = 8;; k *= 2) {
      const int64_t stage = std::min(k, all);
      const int rounds = stage == all ? kLastRounds : kRoundsOfStage;
      for (int round = 0; round < rounds; ++round) {
        if (each_round) each_round();
        const std::vector<int32_t> before = word_of_;
        match(stage);
        if (word_of_ == before) break;
      }
      if (stage == all) return word_of_;
    }
  }

 private:
  // Matches the k commonest codes with about as many of the commonest words.
  void match(int64_t k) {
    const int64_t m = std::min<int64_t>(cipher_.words, k + k / 4 + 16);
    std::vector<int32_t> code_row(static_cast<size_t>(cipher_.codes), -1),
        word_row(static_cast<size_t>(cipher_.words), -1);
    for (int64_t i = 0; i < k; ++i) {
      code_row[static_cast<size_t>(codes_.order[static_cast<size_t>(i)])] = static_cast<int32_t>(i);
    }
    for (int64_t i = 0; i < m; ++i) {
      word_row[static_cast<size_t>(words_.order[static_cast<size_t>(i)])] = static_cast<int32_t>(i);
    }
    // The words that the last round named are what neighbours are told by.
    std::vector<int32_t> code_anchor(code_row.size(), -1), word_anchor(word_row.size(), -1);
    int64_t anchors = 0;
    for (const int32_t code : codes_.order) {
      const int32_t word = word_of_[static_cast<size_t>(code)];
      if (word < 0 || anchors == kMostAnchors) continue;
      code_anchor[static_cast<size_t>(code)] = static_cast<int32_t>(anchors);
      word_anchor[static_cast<size_t>(word)] = static_cast<int32_t>(anchors++);
    }
    const Tensor seen = codes_.statistics(code_row, k, code_anchor, anchors);
    Tensor usual = words_.statistics(word_row, m, word_anchor, anchors);
    to_log_probabilities(usual, anchors + 1);
    Tensor score = Tensor::empty({k, m});
    backend(Device{}).gemm(false, true, 1, seen, usual, 0, score);
    add_frequencies(score);
    assign(score);
  }

  void add_frequencies(Tensor& score) const {
    for (int64_t i = 0; i < score.dim(0); ++i) {
      const double n = codes_.counts[static_cast<size_t>(codes_.order[static_cast<size_t>(i)])];
      for (int64_t j = 0; j < score.dim(1); ++j) {
        const double w = words_.counts[static_cast<size_t>(words_.order[static_cast<size_t>(j)])];
        const double gap = std::log((n + .5) / codes_.total) - std::log((w + .5) / words_.total);
        const double variance = .02 + 1 / (n + .5) + 1 / (w + .5);
        score.data<float>()[i * score.dim(1) + j] -= static_cast<float>(gap * gap / (2 * variance));
      }
    }
  }

  // One to one, the surest first: a code is as sure as its best word is ahead of its second best.
  // Then pairs of codes change their words where that raises the sum.
  void assign(const Tensor& score) {
    const int64_t k = score.dim(0), m = score.dim(1);
    std::vector<int32_t> column(static_cast<size_t>(k), -1), owner(static_cast<size_t>(m), -1);
    const auto code = [&](int64_t i) {
      return static_cast<size_t>(codes_.order[static_cast<size_t>(i)]);
    };
    const auto word = [&](int64_t j) {
      return static_cast<size_t>(words_.order[static_cast<size_t>(j)]);
    };
    const auto at = [&](int64_t i, int64_t j) { return score.data<float>()[i * m + j]; };
    std::vector<std::pair<float, int64_t>> sure;
    for (int64_t i = 0; i < k; ++i) {
      if (fixed_[code(i)] >= 0) continue;
      float best = -INFINITY, second = -INFINITY;
      for (int64_t j = 0; j < m; ++j) {
        if (fixed_word_[word(j)]) continue;
        const float s = at(i, j);
        if (s > best)
          second = best, best = s;
        else if (s > second)
          second = s;
      }
      sure.emplace_back(best - second, i);
    }
    std::ranges::stable_sort(sure, [](const auto& a, const auto& b) { return a.first > b.first; });
    for (const auto& [margin, i] : sure) {
      int64_t best = -1;
      for (int64_t j = 0; j < m; ++j) {
        if (owner[static_cast<size_t>(j)] >= 0 || fixed_word_[word(j)]) continue;
        if (best < 0 || at(i, j) > at(i, best)) best = j;
      }
      if (best < 0) continue;
      column[static_cast<size_t>(i)] = static_cast<int32_t>(best);
      owner[static_cast<size_t>(best)] = static_cast<int32_t>(i);
    }
    improve(column, owner, k, m, at, [&](int64_t j) { return fixed_word_[word(j)] != 0; });
    for (int64_t i = 0; i < k; ++i) {
      if (fixed_[code(i)] >= 0) continue;
      const int32_t j = column[static_cast<size_t>(i)];
      word_of_[code(i)] = j < 0 ? -1 : static_cast<int32_t>(word(j));
    }
  }

  template <typename At, typename Taken>
  static void improve(std::vector<int32_t>& column, std::vector<int32_t>& owner, int64_t k,
                      int64_t m, At at, Taken taken) {
    for (int pass = 0; pass < 4; ++pass) {
      bool changed = false;
      for (int64_t i = 0; i < k; ++i) {
        const int32_t mine = column[static_cast<size_t>(i)];
        if (mine < 0) continue;
        double best = 1e-6;
        int64_t with = -1;
        for (int64_t j = 0; j < m; ++j) {
          if (j == mine || taken(j)) continue;
          const int32_t other = owner[static_cast<size_t>(j)];
          double gain = static_cast<double>(at(i, j)) - at(i, mine);
          if (gain <= best) continue;  // the other one rarely gains as well
          if (other >= 0) gain += static_cast<double>(at(other, mine)) - at(other, j);
          if (gain > best) best = gain, with = j;
        }
        if (with < 0) continue;
        const int32_t other = owner[static_cast<size_t>(with)];
        owner[static_cast<size_t>(with)] = static_cast<int32_t>(i);
        owner[static_cast<size_t>(mine)] = other;
        column[static_cast<size_t>(i)] = static_cast<int32_t>(with);
        if (other >= 0) column[static_cast<size_t>(other)] = mine;
        changed = true;
      }
      if (!changed) return;
    }
  }

  const Cipher& cipher_;
  const Corpus codes_, words_;
  std::vector<int32_t> fixed_;
  std::vector<char> fixed_word_;
  std::vector<int32_t> word_of_;
};

}  // namespace

std::vector<int32_t> decipher(const Cipher& cipher, const std::function<void()>& each_round) {
  return Solver(cipher).run(each_round);
}

}  // namespace ens
