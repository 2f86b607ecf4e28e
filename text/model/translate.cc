// SPDX-License-Identifier: Apache-2.0
#include "text/model/translate.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace ens {

namespace {
constexpr size_t kBatch = 64;  // sentences that are translated together
}

void LocalBodies::begin(const Tensor& source, const Tensor& lengths) {
  const NoGrad no_grad;
  lengths_ = lengths;
  memories_.clear();
  const Var x(source.to(device_));
  for (const auto& net : nets_) memories_.push_back(net->encode(x, lengths).value());
}

std::vector<Tensor> LocalBodies::step(std::span<const int> sentence, const Tensor& target) {
  const NoGrad no_grad;
  const Tensor rows = Tensor::from_labels(std::vector<int32_t>(sentence.begin(), sentence.end()));
  std::vector<int32_t> lengths;
  for (const int i : sentence) lengths.push_back(lengths_.data<int32_t>()[i]);
  const Tensor of_rows = Tensor::from_labels(lengths);
  const Var y(target.to(device_));
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < nets_.size(); ++i) {
    const Shape& m = memories_[i].shape();
    const Var memory = reshape(gather(Var(memories_[i].reshape({m[0], m[1] * m[2]})), rows),
                               {rows.numel(), m[1], m[2]});
    const Var z = nets_[i]->decode(y, memory, of_rows);
    outputs.push_back(
        reshape(slice(z, 1, z.dim(1) - 1, 1), {z.dim(0), z.dim(2)}).value().to(Device{}));
  }
  return outputs;
}

std::vector<int32_t> with_ends(std::span<const int32_t> words) {
  std::vector<int32_t> out{kBegin};
  out.insert(out.end(), words.begin(), words.end());
  out.push_back(kEnd);
  return out;
}

Translator::Translator(std::shared_ptr<TextHead> head, std::shared_ptr<TextTail> tail,
                       std::vector<int> selected, SearchOptions options, Rng* noise)
    : head_(std::move(head)),
      tail_(std::move(tail)),
      selected_(std::move(selected)),
      options_(options),
      noise_(noise) {}

std::vector<std::vector<int32_t>> Translator::translate(
    std::span<const std::vector<int32_t>> sentences, TextBodies& bodies, const OnToken& on_token) {
  const NoGrad no_grad;
  std::vector<std::vector<int32_t>> out(sentences.size()), rows;
  std::vector<size_t> index;  // of those that are not empty
  std::vector<int64_t> words;
  for (size_t i = 0; i < sentences.size(); ++i) {
    if (std::ssize(sentences[i]) > options_.max_tokens) {
      usage_fail("a sentence has " + std::to_string(sentences[i].size()) + " tokens, more than " +
                     std::to_string(options_.max_tokens),
                 "text.max_tokens", "split it");
    }
    if (sentences[i].empty()) continue;
    rows.push_back(with_ends(sentences[i]));
    words.push_back(std::ssize(sentences[i]));
    index.push_back(i);
  }
  if (rows.empty()) return out;
  const Device device = head_->source_embedding().value().device();
  const Tensor lengths = row_lengths(rows);
  bodies.begin(head_->send_source(head_->source(padded_rows(rows), lengths), noise_)
                   .value()
                   .to(Device{})
                   .plain(),
               lengths);
  const auto next = [&](std::span<const int> sentence, const Tensor& prefixes) {
    const Var y = head_->send_target(head_->target(prefixes), noise_);
    const std::vector<Tensor> outputs = bodies.step(sentence, y.value().to(Device{}).plain());
    std::vector<Var> read;
    for (const int i : selected_) {
      read.emplace_back(outputs.at(static_cast<size_t>(i)).to(device));
    }
    return tail_->logits(read).value();
  };
  const auto heard = [&](int sentence, int32_t token) {
    on_token(static_cast<int>(index[static_cast<size_t>(sentence)]), token);
  };
  const auto found =
      search_translations(words, options_, next, on_token ? OnToken(heard) : OnToken());
  for (size_t i = 0; i < found.size(); ++i) out[index[i]] = found[i];
  return out;
}

std::vector<std::vector<int32_t>> translate_all(Translator& translator, TextBodies& bodies,
                                                std::span<const std::vector<int32_t>> sentences,
                                                const std::function<void()>& each_batch) {
  std::vector<size_t> order(sentences.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t i) { return sentences[i].size(); });
  std::vector<std::vector<int32_t>> out(sentences.size());
  for (size_t begin = 0; begin < order.size(); begin += kBatch) {
    if (each_batch) each_batch();
    std::vector<std::vector<int32_t>> batch;
    const size_t end = std::min(begin + kBatch, order.size());
    for (size_t i = begin; i < end; ++i) batch.push_back(sentences[order[i]]);
    auto done = translator.translate(batch, bodies);
    for (size_t i = begin; i < end; ++i) out[order[i]] = std::move(done[i - begin]);
  }
  return out;
}

}  // namespace ens
