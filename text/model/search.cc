// SPDX-License-Identifier: Apache-2.0
#include "text/model/search.h"

#include <algorithm>
#include <cmath>

#include "nn/autograd/ops.h"
#include "text/model/tokeniser.h"

namespace ens {
namespace {

struct Hypothesis {
  std::vector<int32_t> tokens;  // begin first
  double log_p = 0;
};

class Beam {
 public:
  Beam(const SearchOptions& options, int64_t source_words)
      : options_(options),
        longest_(std::min(source_words + options.extra_tokens, options.max_tokens)) {
    active_.push_back({{kBegin}, 0});
    if (longest_ == 0) finish(active_[0]);
  }

  const std::vector<Hypothesis>& active() const { return active_; }
  bool done() const { return active_.empty(); }
  const std::vector<int32_t>& best() const { return best_; }

  struct Candidate {
    double log_p;
    size_t from;
    int32_t token;
  };
  // Of the continuations of active(), in any order.
  void advance(std::vector<Candidate> all) {
    std::ranges::sort(all, [](const Candidate& a, const Candidate& b) {
      if (a.log_p != b.log_p) return a.log_p > b.log_p;
      return a.token != b.token ? a.token < b.token : a.from < b.from;
    });
    all.resize(std::min(all.size(), static_cast<size_t>(options_.beam)));
    std::vector<Hypothesis> next;
    for (const Candidate& c : all) {
      Hypothesis h{active_[c.from].tokens, c.log_p};
      h.tokens.push_back(c.token);
      if (c.token == kEnd || std::ssize(h.tokens) - 1 >= longest_) {
        finish(h);
      } else {
        next.push_back(std::move(h));
      }
    }
    active_ = std::move(next);
    // Probabilities only fall, so that a hypothesis can at most become longer for nothing.
    const auto hopeless = [&](const Hypothesis& h) {
      return !best_.empty() && score(h.log_p, longest_) <= best_score_;
    };
    if (std::ranges::all_of(active_, hopeless)) active_.clear();
  }

 private:
  double score(double log_p, int64_t length) const {
    return log_p / std::pow((5 + static_cast<double>(length)) / 6, options_.length_penalty);
  }
  void finish(const Hypothesis& h) {
    const double mine = score(h.log_p, std::ssize(h.tokens) - 1);
    if (!best_.empty() && mine <= best_score_) return;
    best_ = h.tokens, best_score_ = mine;
    if (longest_ == 0) active_.clear();
  }

  const SearchOptions& options_;
  const int64_t longest_;
  std::vector<Hypothesis> active_;
  std::vector<int32_t> best_;
  double best_score_ = 0;
};

Tensor as_rows(const std::vector<const Hypothesis*>& all) {
  const auto length = std::ssize(all[0]->tokens);
  Tensor rows = Tensor::empty({std::ssize(all), length}, Dtype::kI32);
  for (size_t i = 0; i < all.size(); ++i) {
    std::ranges::copy(all[i]->tokens, rows.data<int32_t>() + static_cast<int64_t>(i) * length);
  }
  return rows;
}

}  // namespace

SearchOptions search_options(const TextConfig& config) {
  return {config.beam(), config.length_penalty(), config.extra_tokens(), config.max_tokens()};
}

std::vector<std::vector<int32_t>> search_translations(std::span<const int64_t> source_words,
                                                      const SearchOptions& options,
                                                      const NextLogits& next,
                                                      const OnToken& on_token) {
  std::vector<Beam> beams;
  for (const int64_t words : source_words) beams.emplace_back(options, words);
  for (;;) {
    std::vector<int> sentence;
    std::vector<const Hypothesis*> all;
    for (size_t i = 0; i < beams.size(); ++i) {
      for (const Hypothesis& h : beams[i].active()) {
        sentence.push_back(static_cast<int>(i));
        all.push_back(&h);
      }
    }
    if (all.empty()) break;
    const Tensor logits = next(sentence, as_rows(all));
    const int64_t k = std::min<int64_t>(options.beam, logits.dim(1));
    const TopK top = top_k(log_softmax(Var(logits)).value(), k);
    for (size_t begin = 0; begin < all.size();) {
      const int i = sentence[begin];
      std::vector<Beam::Candidate> candidates;
      size_t end = begin;
      for (; end < all.size() && sentence[end] == i; ++end) {
        for (size_t j = 0; j < static_cast<size_t>(k); ++j) {
          const size_t at = end * static_cast<size_t>(k) + j;
          candidates.push_back(
              {all[end]->log_p + static_cast<double>(top.score[at]), end - begin, top.index[at]});
        }
      }
      beams[static_cast<size_t>(i)].advance(candidates);
      if (on_token && options.beam == 1 && candidates[0].token != kEnd) {
        on_token(i, candidates[0].token);
      }
      begin = end;
    }
  }
  std::vector<std::vector<int32_t>> out;
  for (const Beam& beam : beams) {
    std::vector<int32_t> tokens(beam.best().begin() + 1, beam.best().end());
    if (!tokens.empty() && tokens.back() == kEnd) tokens.pop_back();
    out.push_back(std::move(tokens));
  }
  return out;
}

}  // namespace ens
