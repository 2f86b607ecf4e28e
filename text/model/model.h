// SPDX-License-Identifier: Apache-2.0
// A translation network in the three parts of a split: the client's head (both embeddings,
// positions, perhaps layers, noise), the server's body (encoder and decoder; Seq2Seq), the client's
// tail (projection and generator).
//
// What is sent for the word w at position p is sqrt(d) E[w] + PE[p] + noise. Without layers on the
// client that is a substitution cipher (docs/text.md).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "nn/modules/seq2seq.h"
#include "proto/config.h"

namespace ens {

struct TextSpec {
  Seq2SeqSpec net;  // the whole network, head_layers among its layers
  int64_t source_words = 0, target_words = 0;
  int head_layers = 0;  // of encoder and decoder, on the client
  float dropout = 0;
  bool tie = false;     // the generator's weights are the target embedding
  bool concat = false;  // the generator reads all selected outputs, in place of a projection
  int64_t max_tokens = 512;
  int64_t positions() const { return max_tokens + 2; }  // with begin and end
  Seq2SeqSpec body() const;                             // what is left for the server
};
TextSpec text_spec(const TextConfig& config, int64_t source_words, int64_t target_words);

// Sentences as token numbers, padded at the end with kPad.
struct TokenBatch {
  Tensor source;          // [B,S] int32: begin, words, end
  Tensor source_lengths;  // [B] int32
  Tensor target;          // [B,T] int32: begin, words
  Tensor next;            // [B*T] int32: words, end; what each position shall say
};
// The rows, each from begin to end, padded to a common length: the next of kBuckets.
Tensor padded_rows(std::span<const std::vector<int32_t>> rows);
Tensor row_lengths(std::span<const std::vector<int32_t>> rows);

class TextHead : public SequenceModule {
 public:
  TextHead(const TextSpec& spec, Rng& rng);
  // Features [B,L,D] before the noise; a target's see only what stands before them.
  Var source(const Tensor& ids, const Tensor& lengths, const DropoutDraws& drop = {});
  Var target(const Tensor& ids, const DropoutDraws& drop = {});
  // The same noise for every sentence, drawn once: part of the module's state.
  void draw_fixed_noise(float sigma, Rng& rng);
  void load_noise(const Tensor& source, const Tensor& target);  // [positions, D]
  // Noise of its own for every token that is sent.
  void set_fresh_noise(float sigma) { fresh_ = sigma; }
  // Features with the noise. `draws` is used by fresh noise only.
  Var send_source(const Var& clean, Rng* draws) const;
  Var send_target(const Var& clean, Rng* draws) const;

  const Var& source_embedding() const { return source_embedding_; }
  const Var& target_embedding() const { return target_embedding_; }
  const Tensor& source_noise() const { return source_noise_; }  // [positions, D], zeros if none
  const Tensor& target_noise() const { return target_noise_; }
  const TextSpec& spec() const { return spec_; }

 private:
  Var embed(const Var& table, const Tensor& ids, const DropoutDraws& drop) const;
  Var send(const Var& clean, const Tensor& fixed, Rng* draws) const;

  const TextSpec spec_;
  Var source_embedding_, target_embedding_;
  std::vector<std::shared_ptr<EncoderLayer>> source_layers_, target_layers_;
  Tensor positions_, source_noise_, target_noise_;
  float fresh_ = 0;
};

class TextTail : public SequenceModule {
 public:
  // `nets`: how many outputs it reads. With spec.tie `tied` is the target embedding.
  TextTail(const TextSpec& spec, int nets, const Var& tied, Rng& rng);
  // Outputs [.., D] of the nets -> logits [.., V].
  Var logits(std::span<const Var> outputs);

 private:
  std::shared_ptr<Linear> projection_, generator_;
  Var tied_, bias_;
};

// Head, bodies and tail. The bodies of an ensemble's second stage are frozen, and no part of this
// module's state.
class TextNet : public SequenceModule {
 public:
  TextNet(const TextSpec& spec, Rng& rng);  // with one body of its own
  TextNet(const TextSpec& spec, std::vector<std::shared_ptr<Seq2Seq>> frozen, Rng& rng);
  // Logits [B*T, V] of the next tokens. The numbers of dropout and of fresh noise; null: none.
  Var logits(const TokenBatch& batch, Rng* dropout, Rng* noise);

  const std::shared_ptr<TextHead>& head() const { return head_; }
  const std::vector<std::shared_ptr<Seq2Seq>>& bodies() const { return bodies_; }
  const std::shared_ptr<TextTail>& tail() const { return tail_; }

 private:
  const float dropout_;
  const bool own_body_;
  std::shared_ptr<TextHead> head_;
  std::vector<std::shared_ptr<Seq2Seq>> bodies_;
  std::shared_ptr<TextTail> tail_;
};

}  // namespace ens
