// SPDX-License-Identifier: Apache-2.0
#include "nn/modules/seq2seq.h"

#include <cmath>
#include <string>

#include "base/error.h"

namespace ens {

void init_xavier(Module& module, Rng& rng) {
  for (const NamedVar& p : module.parameters()) {
    if (p.var.shape().rank() != 2) continue;
    const auto bound =
        static_cast<float>(std::sqrt(6.0 / static_cast<double>(p.var.dim(0) + p.var.dim(1))));
    Tensor values = Tensor::empty(p.var.shape());
    rng.fill_uniform(values.span<float>(), -bound, bound);
    p.var.mutable_value().copy_from(values);
  }
}

Var SequenceModule::forward(const Var&) {
  fail("this layer has several inputs", "forward", "call its own functions");
}

MultiHeadAttention::MultiHeadAttention(int64_t width, int heads, Rng& rng) : heads_(heads) {
  if (heads < 1 || width % heads != 0) {
    usage_fail(std::to_string(width) + " channels cannot be split into " + std::to_string(heads) +
                   " heads",
               "MultiHeadAttention", "make the width a multiple of the heads");
  }
  weight_ = add_parameter("in_proj_weight", Tensor::zeros({3 * width, width}));
  bias_ = add_parameter("in_proj_bias", Tensor::zeros({3 * width}));
  out_ = add("out_proj", std::make_shared<Linear>(width, width, true, rng));
}

// Of x [B,L,n*D], part i of n: [B,H,L,D/H].
Var MultiHeadAttention::heads_of(const Var& x, int64_t part) const {
  const int64_t width = weight_.dim(1);
  const Var mine = x.dim(2) == width ? x : slice(x, 2, part * width, width);
  return permute(reshape(mine, {x.dim(0), x.dim(1), heads_, width / heads_}), {0, 2, 1, 3});
}

Var MultiHeadAttention::attend(const Var& q, const Var& k, const Var& v, const SoftmaxMask& mask,
                               const DropoutDraws& drop) {
  const Var y = permute(attention(q, k, v, mask, drop.rng ? drop.p : 0, drop.rng), {0, 2, 1, 3});
  return out_->forward(reshape(y, {y.dim(0), y.dim(1), weight_.dim(1)}));
}

Var MultiHeadAttention::to_itself(const Var& x, const SoftmaxMask& mask, const DropoutDraws& drop) {
  const Var all = linear(x, weight_, bias_);
  return attend(heads_of(all, 0), heads_of(all, 1), heads_of(all, 2), mask, drop);
}

Var MultiHeadAttention::to_memory(const Var& x, const Var& memory, const SoftmaxMask& mask,
                                  const DropoutDraws& drop) {
  const int64_t width = weight_.dim(1);
  const Var q = linear(x, slice(weight_, 0, 0, width), slice(bias_, 0, 0, width));
  const Var both =
      linear(memory, slice(weight_, 0, width, 2 * width), slice(bias_, 0, width, 2 * width));
  return attend(heads_of(q, 0), heads_of(both, 0), heads_of(both, 1), mask, drop);
}

EncoderLayer::EncoderLayer(const Seq2SeqSpec& spec, Rng& rng)
    : norm_first_(spec.norm_first), activation_(spec.activation) {
  self_ = add("self_attn", std::make_shared<MultiHeadAttention>(spec.width, spec.heads, rng));
  linear1_ = add("linear1", std::make_shared<Linear>(spec.width, spec.hidden, true, rng));
  linear2_ = add("linear2", std::make_shared<Linear>(spec.hidden, spec.width, true, rng));
  norm1_ = add("norm1", std::make_shared<LayerNorm>(spec.width));
  norm2_ = add("norm2", std::make_shared<LayerNorm>(spec.width));
}

Var EncoderLayer::feed_forward(const Var& x, const DropoutDraws& drop) {
  const Var hidden = linear1_->forward(x);
  return linear2_->forward(drop(activation_ == UnaryOp::kGelu ? gelu(hidden) : relu(hidden)));
}

Var EncoderLayer::run(const Var& x, const SoftmaxMask& mask, const DropoutDraws& drop) {
  const Var y =
      residual(x, *norm1_, drop, [&](const Var& v) { return self_->to_itself(v, mask, drop); });
  return residual(y, *norm2_, drop, [&](const Var& v) { return feed_forward(v, drop); });
}

DecoderLayer::DecoderLayer(const Seq2SeqSpec& spec, Rng& rng) : EncoderLayer(spec, rng) {
  cross_ = add("multihead_attn", std::make_shared<MultiHeadAttention>(spec.width, spec.heads, rng));
  norm3_ = add("norm3", std::make_shared<LayerNorm>(spec.width));
}

Var DecoderLayer::run(const Var& y, const Var& memory, const Tensor& memory_lengths,
                      const DropoutDraws& drop) {
  const Var a = residual(y, *norm1_, drop,
                         [&](const Var& v) { return self_->to_itself(v, {.causal = true}, drop); });
  const Var b = residual(a, *norm2_, drop, [&](const Var& v) {
    return cross_->to_memory(v, memory, {.lengths = memory_lengths}, drop);
  });
  return residual(b, *norm3_, drop, [&](const Var& v) { return feed_forward(v, drop); });
}

namespace {
// So that names are those of PyTorch: encoder.layers.0, .., encoder.norm.
struct Stack : SequenceModule {
  using Module::add;
};
}  // namespace

Seq2Seq::Seq2Seq(const Seq2SeqSpec& spec, Rng& rng) : spec_(spec) {
  const auto stack = [&](const char* name, int layers, auto& list, auto make) {
    const auto all = add(name, std::make_shared<Stack>());
    const auto inner = all->add("layers", std::make_shared<Stack>());
    for (int i = 0; i < layers; ++i) list.push_back(inner->add(std::to_string(i), make()));
    return all->add("norm", std::make_shared<LayerNorm>(spec.width));
  };
  encoder_norm_ = stack("encoder", spec.encoder_layers, encoder_,
                        [&] { return std::make_shared<EncoderLayer>(spec, rng); });
  decoder_norm_ = stack("decoder", spec.decoder_layers, decoder_,
                        [&] { return std::make_shared<DecoderLayer>(spec, rng); });
}

Var Seq2Seq::encode(const Var& x, const Tensor& lengths, const DropoutDraws& drop) {
  Var y = x;
  for (const auto& layer : encoder_) y = layer->run(y, {.lengths = lengths}, drop);
  return encoder_norm_->forward(y);
}

Var Seq2Seq::decode(const Var& y, const Var& memory, const Tensor& memory_lengths,
                    const DropoutDraws& drop) {
  Var z = y;
  for (const auto& layer : decoder_) z = layer->run(z, memory, memory_lengths, drop);
  return decoder_norm_->forward(z);
}

Tensor sinusoid_positions(int64_t length, int64_t width) {
  Tensor t = Tensor::empty({length, width});
  for (int64_t p = 0; p < length; ++p) {
    for (int64_t i = 0; i < width; ++i) {
      const double angle =
          static_cast<double>(p) /
          std::pow(10000.0, static_cast<double>(i / 2 * 2) / static_cast<double>(width));
      t.data<float>()[p * width + i] =
          static_cast<float>(i % 2 ? std::cos(angle) : std::sin(angle));
    }
  }
  return t;
}

}  // namespace ens
