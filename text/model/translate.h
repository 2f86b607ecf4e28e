// SPDX-License-Identifier: Apache-2.0
// From token numbers to a translation, with whoever computes the bodies.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "text/model/model.h"
#include "text/model/search.h"
#include "text/model/tokeniser.h"

namespace ens {

// What a client asks of the server. Everything is float32, on the CPU, plain.
class TextBodies {
 public:
  virtual ~TextBodies() = default;
  // What begins a translation of B sentences: features [B,S,D] as sent, and their lengths.
  virtual void begin(const Tensor& source, const Tensor& lengths) = 0;
  // For n hypotheses of these sentences, with target features [n,L,D] as sent: what each net says
  // at the last position, [n,D] a net.
  virtual std::vector<Tensor> step(std::span<const int> sentence, const Tensor& target) = 0;
};

// Bodies in this process.
class LocalBodies : public TextBodies {
 public:
  LocalBodies(std::vector<std::shared_ptr<Seq2Seq>> nets, Device device)
      : nets_(std::move(nets)), device_(device) {}
  void begin(const Tensor& source, const Tensor& lengths) override;
  std::vector<Tensor> step(std::span<const int> sentence, const Tensor& target) override;

 private:
  const std::vector<std::shared_ptr<Seq2Seq>> nets_;
  const Device device_;
  Tensor lengths_;
  std::vector<Tensor> memories_;  // [B,S,D] a net
};

// The client: head and tail, which see every word. One thread at a time; modules in evaluation
// mode.
class Translator {
 public:
  // `selected`: which of the nets the tail reads, in its order. `noise`: of fresh noise; may be
  // null.
  Translator(std::shared_ptr<TextHead> head, std::shared_ptr<TextTail> tail,
             std::vector<int> selected, SearchOptions options, Rng* noise);
  // Sentences without begin and end -> translations likewise. An empty sentence stays empty.
  // Usage Error for one of more than max_tokens.
  std::vector<std::vector<int32_t>> translate(std::span<const std::vector<int32_t>> sentences,
                                              TextBodies& bodies, const OnToken& on_token = {});

 private:
  const std::shared_ptr<TextHead> head_;
  const std::shared_ptr<TextTail> tail_;
  const std::vector<int> selected_;
  const SearchOptions options_;
  Rng* const noise_;
};

// Many sentences, in batches of similar length.
std::vector<std::vector<int32_t>> translate_all(Translator& translator, TextBodies& bodies,
                                                std::span<const std::vector<int32_t>> sentences,
                                                const std::function<void()>& each_batch = {});

// Begin and end around the words.
std::vector<int32_t> with_ends(std::span<const int32_t> words);

}  // namespace ens
