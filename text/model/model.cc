// SPDX-License-Identifier: Apache-2.0
#include "text/model/model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "base/error.h"
#include "text/model/tokeniser.h"

namespace ens {
namespace {

// Lengths that batches are padded to, so that shapes repeat; beyond them multiples of the last.
constexpr std::array<int64_t, 12> kBuckets{8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384};

int64_t bucket(int64_t length) {
  const auto next = std::ranges::lower_bound(kBuckets, length);
  if (next != kBuckets.end()) return *next;
  return (length + kBuckets.back() - 1) / kBuckets.back() * kBuckets.back();
}

}  // namespace

Seq2SeqSpec TextSpec::body() const {
  Seq2SeqSpec rest = net;
  rest.encoder_layers -= head_layers;
  rest.decoder_layers -= head_layers;
  return rest;
}

TextSpec text_spec(const TextConfig& config, int64_t source_words, int64_t target_words) {
  TextSpec spec;
  spec.net.width = config.width();
  spec.net.heads = config.heads();
  spec.net.hidden = config.feed_forward();
  spec.net.encoder_layers = config.encoder_layers();
  spec.net.decoder_layers = config.decoder_layers();
  spec.net.norm_first = config.norm() == "pre";
  spec.net.activation = config.activation() == "gelu" ? UnaryOp::kGelu : UnaryOp::kRelu;
  spec.source_words = source_words;
  spec.target_words = target_words;
  spec.head_layers = config.head_layers();
  spec.dropout = static_cast<float>(config.dropout());
  spec.tie = config.tie();
  spec.concat = config.tail() == "concat";
  spec.max_tokens = config.max_tokens();
  return spec;
}

Tensor padded_rows(std::span<const std::vector<int32_t>> rows) {
  size_t longest = 1;
  for (const auto& row : rows) longest = std::max(longest, row.size());
  const int64_t length = bucket(static_cast<int64_t>(longest));
  Tensor out = Tensor::empty({std::ssize(rows), length}, Dtype::kI32);
  std::ranges::fill(out.span<int32_t>(), kPad);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::ranges::copy(rows[i], out.data<int32_t>() + static_cast<int64_t>(i) * length);
  }
  return out;
}

Tensor row_lengths(std::span<const std::vector<int32_t>> rows) {
  std::vector<int32_t> lengths;
  for (const auto& row : rows) lengths.push_back(static_cast<int32_t>(row.size()));
  return Tensor::from_labels(lengths);
}

TextHead::TextHead(const TextSpec& spec, Rng& rng) : spec_(spec) {
  const int64_t width = spec.net.width;
  source_embedding_ = add_parameter("source_embedding", Tensor::zeros({spec.source_words, width}));
  target_embedding_ = add_parameter("target_embedding", Tensor::zeros({spec.target_words, width}));
  for (int i = 0; i < spec.head_layers; ++i) {
    const auto layer = [&] { return std::make_shared<EncoderLayer>(spec.net, rng); };
    source_layers_.push_back(add("source_layers." + std::to_string(i), layer()));
    target_layers_.push_back(add("target_layers." + std::to_string(i), layer()));
  }
  init_xavier(*this, rng);
  positions_ = sinusoid_positions(spec.positions(), width);
  source_noise_ = Tensor::zeros({spec.positions(), width});
  target_noise_ = Tensor::zeros({spec.positions(), width});
  add_buffer("positions", positions_);
  add_buffer("source_noise", source_noise_);
  add_buffer("target_noise", target_noise_);
}

Var TextHead::embed(const Var& table, const Tensor& ids, const DropoutDraws& drop) const {
  if (ids.dim(1) > spec_.positions()) {
    usage_fail("a sentence of " + std::to_string(ids.dim(1)) + " tokens is too long",
               "text.max_tokens", "split it, or train with more");
  }
  const float scale = std::sqrt(static_cast<float>(spec_.net.width));
  return drop(add_position(affine(gather(table, ids, kPad), scale, 0), Var(positions_)));
}

Var TextHead::source(const Tensor& ids, const Tensor& lengths, const DropoutDraws& drop) {
  Var x = embed(source_embedding_, ids, drop);
  for (const auto& layer : source_layers_) x = layer->run(x, {.lengths = lengths}, drop);
  return x;
}

Var TextHead::target(const Tensor& ids, const DropoutDraws& drop) {
  Var y = embed(target_embedding_, ids, drop);
  for (const auto& layer : target_layers_) y = layer->run(y, {.causal = true}, drop);
  return y;
}

void TextHead::draw_fixed_noise(float sigma, Rng& rng) {
  for (Tensor* noise : {&source_noise_, &target_noise_}) {
    Tensor drawn = Tensor::empty(noise->shape());
    rng.fill_normal(drawn.span<float>(), 0, sigma);
    noise->copy_from(drawn);
  }
}

void TextHead::load_noise(const Tensor& source, const Tensor& target) {
  source_noise_.copy_from(source);
  target_noise_.copy_from(target);
}

Var TextHead::send(const Var& clean, const Tensor& fixed, Rng* draws) const {
  const Var noisy = add_position(clean, Var(fixed));
  if (fresh_ == 0 || !draws) return noisy;
  Tensor fresh = Tensor::empty(clean.shape());
  draws->fill_normal(fresh.span<float>(), 0, fresh_);
  return ens::add(noisy, Var(fresh.to(clean.value().device())));
}
Var TextHead::send_source(const Var& clean, Rng* draws) const {
  return send(clean, source_noise_, draws);
}
Var TextHead::send_target(const Var& clean, Rng* draws) const {
  return send(clean, target_noise_, draws);
}

TextTail::TextTail(const TextSpec& spec, int nets, const Var& tied, Rng& rng) {
  const int64_t width = spec.net.width;
  const bool concat = spec.concat && nets > 1;
  if (nets > 1 && !concat) {
    projection_ = add("projection", std::make_shared<Linear>(nets * width, width, true, rng));
  }
  if (spec.tie && !concat) {
    tied_ = tied;
    bias_ = add_parameter("generator.bias", Tensor::zeros({spec.target_words}));
  } else {
    generator_ = add("generator", std::make_shared<Linear>(concat ? nets * width : width,
                                                           spec.target_words, true, rng));
  }
  init_xavier(*this, rng);
}

Var TextTail::logits(std::span<const Var> outputs) {
  Var x = concat(outputs, outputs[0].shape().rank() - 1);
  if (projection_) x = projection_->forward(x);
  return generator_ ? generator_->forward(x) : linear(x, tied_, bias_);
}

TextNet::TextNet(const TextSpec& spec, Rng& rng) : dropout_(spec.dropout), own_body_(true) {
  head_ = add("head", std::make_shared<TextHead>(spec, rng));
  const auto body = std::make_shared<Seq2Seq>(spec.body(), rng);
  init_xavier(*body, rng);
  bodies_ = {add("body", body)};
  tail_ = add("tail", std::make_shared<TextTail>(spec, 1, head_->target_embedding(), rng));
}

TextNet::TextNet(const TextSpec& spec, std::vector<std::shared_ptr<Seq2Seq>> frozen, Rng& rng)
    : dropout_(spec.dropout), own_body_(false), bodies_(std::move(frozen)) {
  head_ = add("head", std::make_shared<TextHead>(spec, rng));
  tail_ = add("tail", std::make_shared<TextTail>(spec, static_cast<int>(bodies_.size()),
                                                 head_->target_embedding(), rng));
}

Var TextNet::logits(const TokenBatch& batch, Rng* dropout, Rng* noise) {
  const DropoutDraws drop{dropout_, dropout}, none;
  const Var x = head_->send_source(head_->source(batch.source, batch.source_lengths, drop), noise);
  const Var y = head_->send_target(head_->target(batch.target, drop), noise);
  std::vector<Var> outputs;
  for (const auto& body : bodies_) {
    const DropoutDraws& here = own_body_ ? drop : none;
    const Var memory = body->encode(x, batch.source_lengths, here);
    outputs.push_back(body->decode(y, memory, batch.source_lengths, here));
  }
  const Var logits = tail_->logits(outputs);
  return reshape(logits, {logits.dim(0) * logits.dim(1), logits.dim(2)});
}

}  // namespace ens
