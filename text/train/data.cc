// SPDX-License-Identifier: Apache-2.0
#include "text/train/data.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "text/model/translate.h"

namespace ens {
namespace {

constexpr int64_t kPool = 64;  // batches whose sentences are sorted by length together

SentencePairs rows_of(const SentencePairs& all, std::span<const int64_t> rows) {
  SentencePairs out;
  for (const int64_t row : rows) {
    out.source.push_back(all.source[static_cast<size_t>(row)]);
    out.target.push_back(all.target[static_cast<size_t>(row)]);
  }
  return out;
}

int64_t limited(int64_t count, int64_t limit) { return limit > 0 ? std::min(count, limit) : count; }

}  // namespace

TextData load_text(const RunConfig& config) {
  const DataConfig& data = config.data();
  const std::string& direction = config.text().direction();
  const auto read = [&](const char* split, int64_t limit) {
    SentencePairs pairs = read_multi30k(data.root(), split, direction);
    const auto count = static_cast<size_t>(limited(pairs.count(), limit));
    pairs.source.resize(count);
    pairs.target.resize(count);
    return pairs;
  };
  const SentencePairs all = read("train", 0);
  const std::vector<int64_t> order = Rng(1, "sentences set aside").permutation(all.count());
  const int64_t aside = std::min(data.public_images(), all.count() / 2);
  const std::span<const int64_t> rows(order);
  TextData out;
  out.set_aside = rows_of(all, rows.first(static_cast<size_t>(aside)));
  out.train = rows_of(
      all, rows.subspan(static_cast<size_t>(aside),
                        static_cast<size_t>(limited(all.count() - aside, data.train_limit()))));
  out.validation = read("val", data.test_limit());
  out.test = read("test_2016_flickr", data.test_limit());
  return out;
}

Tokenisers make_tokenisers(const TextConfig& config, const SentencePairs& pairs) {
  if (config.tokeniser() == "spm") {
    std::vector<std::string> both = pairs.source;
    both.insert(both.end(), pairs.target.begin(), pairs.target.end());
    const TokeniserPtr joint = train_spm_tokeniser(both, config.pieces());
    return {joint, joint};
  }
  return {make_word_tokeniser(pairs.source, config.min_count()),
          make_word_tokeniser(pairs.target, config.min_count())};
}

TokenPairs encode(const Tokenisers& tokenisers, const SentencePairs& pairs, int64_t max_tokens) {
  TokenPairs out;
  const auto add = [&](const Tokeniser& tokeniser, const std::string& line, auto& list) {
    const std::vector<int32_t> words = tokeniser.encode(line);
    if (std::ssize(words) > max_tokens) {
      usage_fail("a sentence has " + std::to_string(words.size()) + " tokens", "text.max_tokens",
                 "allow as many");
    }
    list.push_back(with_ends(words));
  };
  for (size_t i = 0; i < pairs.source.size(); ++i) {
    add(*tokenisers.source, pairs.source[i], out.source);
    add(*tokenisers.target, pairs.target[i], out.target);
  }
  return out;
}

PairBatches::PairBatches(const TokenPairs& pairs, int64_t batch, uint64_t seed)
    : pairs_(pairs), size_(batch), seed_(seed) {}

int64_t PairBatches::batches() const { return (pairs_.count() + size_ - 1) / size_; }

void PairBatches::start(int64_t epoch) {
  epoch_ = epoch;
  at_ = 0;
  order_.clear();
  Rng rng(seed_, static_cast<uint64_t>(epoch));
  std::vector<int64_t> rows = rng.permutation(pairs_.count());
  for (int64_t begin = 0; begin < pairs_.count(); begin += kPool * size_) {
    const auto pool = std::span(rows).subspan(
        static_cast<size_t>(begin),
        static_cast<size_t>(std::min(kPool * size_, pairs_.count() - begin)));
    std::ranges::stable_sort(pool, {}, [&](int64_t row) {
      const auto i = static_cast<size_t>(row);
      return std::pair(pairs_.target[i].size(), pairs_.source[i].size());
    });
    for (size_t i = 0; i < pool.size(); i += static_cast<size_t>(size_)) {
      const auto batch = pool.subspan(i, std::min(static_cast<size_t>(size_), pool.size() - i));
      order_.emplace_back(batch.begin(), batch.end());
    }
  }
  std::vector<std::vector<int64_t>> mixed;
  for (const int64_t i : rng.permutation(std::ssize(order_))) {
    mixed.push_back(std::move(order_[static_cast<size_t>(i)]));
  }
  order_ = std::move(mixed);
}

bool PairBatches::next(Batch& batch) {
  if (at_ >= order_.size()) return false;
  const TokenBatch tokens = token_batch(pairs_, order_[at_]);
  const int64_t rows = tokens.source.dim(0), s = tokens.source.dim(1), t = tokens.target.dim(1);
  batch.images = Tensor::empty({rows, s + 2 * t}, Dtype::kI32);
  for (int64_t r = 0; r < rows; ++r) {
    int32_t* to = batch.images.data<int32_t>() + r * (s + 2 * t);
    std::copy_n(tokens.source.data<int32_t>() + r * s, s, to);
    std::copy_n(tokens.target.data<int32_t>() + r * t, t, to + s);
    std::copy_n(tokens.next.data<int32_t>() + r * t, t, to + s + t);
  }
  batch.labels = Tensor::from_labels(
      std::vector{static_cast<int32_t>(s),
                  static_cast<int32_t>(epoch_ * batches() + static_cast<int64_t>(at_))});
  batch.first = static_cast<int64_t>(at_) * size_;
  ++at_;
  return true;
}

int64_t step_of(const Batch& batch) { return batch.labels.data<int32_t>()[1]; }

TokenBatch token_batch(const Batch& batch) {
  const int64_t rows = batch.images.dim(0), s = batch.labels.data<int32_t>()[0],
                t = (batch.images.dim(1) - s) / 2;
  const auto columns = [&](int64_t begin, int64_t count) {
    Tensor out = Tensor::empty({rows, count}, Dtype::kI32);
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(batch.images.data<int32_t>() + r * batch.images.dim(1) + begin, count,
                  out.data<int32_t>() + r * count);
    }
    return out;
  };
  TokenBatch out{columns(0, s), Tensor(), columns(s, t), columns(s + t, t).reshape({rows * t})};
  std::vector<int32_t> lengths;
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t* row = out.source.data<int32_t>() + r * s;
    lengths.push_back(static_cast<int32_t>(std::find(row, row + s, kPad) - row));
  }
  out.source_lengths = Tensor::from_labels(lengths);
  return out;
}

TokenBatch token_batch(const TokenPairs& pairs, std::span<const int64_t> rows) {
  std::vector<std::vector<int32_t>> source, target, next;
  for (const int64_t row : rows) {
    const auto& words = pairs.target[static_cast<size_t>(row)];
    source.push_back(pairs.source[static_cast<size_t>(row)]);
    target.emplace_back(words.begin(), words.end() - 1);
    next.emplace_back(words.begin() + 1, words.end());
  }
  const Tensor after = padded_rows(next);
  return {padded_rows(source), row_lengths(source), padded_rows(target),
          after.reshape({after.numel()})};
}

}  // namespace ens
