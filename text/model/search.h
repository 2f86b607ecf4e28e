// SPDX-License-Identifier: Apache-2.0
// How a translation is chosen, word by word: greedy, or by a beam (Wu et al. 2016, 1609.08144, for
// the length penalty). All sentences advance together.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "nn/core/tensor.h"
#include "proto/config.h"

namespace ens {

struct SearchOptions {
  int beam = 1;                // 1: greedy
  double length_penalty = .6;  // alpha: hypotheses compare by log p / ((5 + length) / 6)^alpha
  int64_t extra_tokens = 5;    // a translation is at most so many tokens longer than its source
  int64_t max_tokens = 512;    // and at most so long
};
SearchOptions search_options(const TextConfig& config);

// The logits [n, V] of the next token for n hypotheses: which sentence each translates, and its
// tokens so far, [n, L] int32, begin first.
using NextLogits = std::function<Tensor(std::span<const int> sentence, const Tensor& prefixes)>;

// Called when a sentence's next token is settled, which greedy search does at once and a beam never
// before its end; may be empty.
using OnToken = std::function<void(int sentence, int32_t token)>;

// The translation of each sentence, without begin and end. source_words: how many tokens each
// sentence has, without begin and end. Equal scores: the lower token number.
std::vector<std::vector<int32_t>> search_translations(std::span<const int64_t> source_words,
                                                      const SearchOptions& options,
                                                      const NextLogits& next,
                                                      const OnToken& on_token = {});

}  // namespace ens
