// SPDX-License-Identifier: Apache-2.0
// The transformer of Vaswani et al., "Attention Is All You Need" (1706.03762), from source features
// to target features: PyTorch's nn.Transformer(batch_first), with its names of parameters, so that
// its weights can be read. Embeddings, positions and the generator are the caller's (text/model.h).
//
// Features are [B,L,D]; sentences of a batch are padded at their end, and `lengths` [B] int32 says
// how many of their tokens count.
#pragma once

#include <memory>
#include <vector>

#include "nn/core/rng.h"
#include "nn/modules/layers.h"
#include "nn/modules/transformer.h"

namespace ens {

struct Seq2SeqSpec {
  int64_t width = 256;
  int heads = 8;
  int64_t hidden = 512;  // of the feed-forward networks
  int encoder_layers = 3, decoder_layers = 3;
  bool norm_first = false;  // layer norm before each sublayer, in place of after it
  UnaryOp activation = UnaryOp::kRelu;
};

// The dropout of one step. Without random numbers there is none.
struct DropoutDraws {
  float p = 0;
  Rng* rng = nullptr;
  Var operator()(const Var& x) const { return rng && p > 0 ? dropout(x, p, *rng) : x; }
};

// Weights uniform in +-sqrt(6 / (in + out)) (Glorot and Bengio, 2010) for every matrix of `module`.
void init_xavier(Module& module, Rng& rng);

// A module whose inputs are several: called by functions of its own.
class SequenceModule : public Module {
 public:
  Var forward(const Var& x) override;  // Error
};

// Multi-head attention: in_proj_weight [3D,D] (queries, keys, values), in_proj_bias, out_proj.
class MultiHeadAttention : public SequenceModule {
 public:
  MultiHeadAttention(int64_t width, int heads, Rng& rng);
  // From x [B,L,D] to itself, and from x [B,Q,D] to memory [B,K,D].
  Var to_itself(const Var& x, const SoftmaxMask& mask, const DropoutDraws& drop);
  Var to_memory(const Var& x, const Var& memory, const SoftmaxMask& mask, const DropoutDraws& drop);

 private:
  Var attend(const Var& q, const Var& k, const Var& v, const SoftmaxMask& mask,
             const DropoutDraws& drop);
  Var heads_of(const Var& x, int64_t part) const;
  int64_t heads_;
  Var weight_, bias_;
  std::shared_ptr<Linear> out_;
};

// Self-attention, then the feed-forward network; with a causal mask also a language model's layer.
class EncoderLayer : public SequenceModule {
 public:
  EncoderLayer(const Seq2SeqSpec& spec, Rng& rng);
  Var run(const Var& x, const SoftmaxMask& mask, const DropoutDraws& drop);

 protected:
  Var feed_forward(const Var& x, const DropoutDraws& drop);
  // norm(x + drop(sublayer(x))), or x + drop(sublayer(norm(x))).
  template <typename F>
  Var residual(const Var& x, LayerNorm& norm, const DropoutDraws& drop, F sublayer) {
    if (norm_first_) return ens::add(x, drop(sublayer(norm.forward(x))));
    return norm.forward(ens::add(x, drop(sublayer(x))));
  }

  const bool norm_first_;
  const UnaryOp activation_;
  std::shared_ptr<MultiHeadAttention> self_;
  std::shared_ptr<Linear> linear1_, linear2_;
  std::shared_ptr<LayerNorm> norm1_, norm2_;
};

// Causal self-attention, attention to the encoder's output, the feed-forward network.
class DecoderLayer : public EncoderLayer {
 public:
  DecoderLayer(const Seq2SeqSpec& spec, Rng& rng);
  Var run(const Var& y, const Var& memory, const Tensor& memory_lengths, const DropoutDraws& drop);

 private:
  std::shared_ptr<MultiHeadAttention> cross_;
  std::shared_ptr<LayerNorm> norm3_;
};

class Seq2Seq : public SequenceModule {
 public:
  Seq2Seq(const Seq2SeqSpec& spec, Rng& rng);
  const Seq2SeqSpec& spec() const { return spec_; }
  // x [B,S,D] -> memory [B,S,D].
  Var encode(const Var& x, const Tensor& lengths, const DropoutDraws& drop = {});
  // y [B,T,D] -> [B,T,D], each position from itself and those before it.
  Var decode(const Var& y, const Var& memory, const Tensor& memory_lengths,
             const DropoutDraws& drop = {});

 private:
  const Seq2SeqSpec spec_;
  std::vector<std::shared_ptr<EncoderLayer>> encoder_;
  std::vector<std::shared_ptr<DecoderLayer>> decoder_;
  std::shared_ptr<LayerNorm> encoder_norm_, decoder_norm_;
};

// [length, width]: sin(p / 10000^(2i/width)) at 2i, cos at 2i + 1.
Tensor sinusoid_positions(int64_t length, int64_t width);

}  // namespace ens
