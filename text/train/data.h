// SPDX-License-Identifier: Apache-2.0
// The sentences of a run, as text and as token numbers, and in batches.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nn/data/loader.h"
#include "nn/data/sentences.h"
#include "proto/config.h"
#include "text/model/model.h"
#include "text/model/tokeniser.h"

namespace ens {

// The client's pairs, and those that were set aside for attackers (data.public_images, at most half
// of all), which are the same for every seed.
struct TextData {
  SentencePairs train, set_aside, validation, test;
};
TextData load_text(const RunConfig& config);

struct Tokenisers {
  TokeniserPtr source, target;  // of `spm` one for both languages
};
// Learned from these sentences, in the same way whenever it is done.
Tokenisers make_tokenisers(const TextConfig& config, const SentencePairs& pairs);

// Sentences from begin to end. Usage Error for one of more than text.max_tokens.
struct TokenPairs {
  std::vector<std::vector<int32_t>> source, target;
  int64_t count() const { return static_cast<int64_t>(source.size()); }
};
TokenPairs encode(const Tokenisers& tokenisers, const SentencePairs& pairs, int64_t max_tokens);

// Batches of sentences of similar lengths, mixed anew in each epoch by the seed. A batch holds a
// TokenBatch in one tensor of integers, which token_batch() unpacks.
class PairBatches : public BatchSource {
 public:
  PairBatches(const TokenPairs& pairs, int64_t batch, uint64_t seed);
  void start(int64_t epoch) override;
  bool next(Batch& batch) override;
  int64_t batches() const override;

 private:
  const TokenPairs& pairs_;
  const int64_t size_;
  const uint64_t seed_;
  int64_t epoch_ = 0;
  std::vector<std::vector<int64_t>> order_;  // the rows of each batch
  size_t at_ = 0;
};
TokenBatch token_batch(const Batch& batch);
// The number of the training's step that the batch is of, from 0.
int64_t step_of(const Batch& batch);
// Rows of `pairs` as they are, without mixing.
TokenBatch token_batch(const TokenPairs& pairs, std::span<const int64_t> rows);

}  // namespace ens
