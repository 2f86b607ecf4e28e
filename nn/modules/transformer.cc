// SPDX-License-Identifier: Apache-2.0
#include "nn/modules/transformer.h"

#include <array>

#include "base/error.h"

namespace ens {
namespace {

constexpr float kEps = 1e-5f;

GraphStep step(GraphStep::Kind kind, int input) {
  GraphStep s{};
  s.kind = kind;
  s.input = input;
  return s;
}

int lower_sum(Graph& graph, int a, int b) {
  GraphStep s = step(GraphStep::Kind::kAdd, a);
  s.residual = b;
  return graph.append(std::move(s));
}

Tensor normal(const Shape& shape, double deviation, Rng& rng) {
  Tensor t = Tensor::empty(shape);
  for (float& v : t.span<float>()) v = static_cast<float>(deviation * rng.normal());
  return t;
}

}  // namespace

LayerNorm::LayerNorm(int64_t width) {
  gamma_ = add_parameter("weight", Tensor::full({width}, 1.0f));
  beta_ = add_parameter("bias", Tensor::zeros({width}));
}

Var LayerNorm::forward(const Var& x) { return layer_norm(x, gamma_, beta_, kEps); }

int LayerNorm::lower(Graph& graph, int input) const {
  GraphStep s = step(GraphStep::Kind::kLayerNorm, input);
  s.weight = gamma_.value();
  s.bias = beta_.value();
  s.a = kEps;
  return graph.append(std::move(s));
}

Tokens::Tokens(int64_t width, int64_t tokens, bool positions, Rng& rng) : tokens_(tokens) {
  class_token_ = add_parameter("class_token", normal({width}, 0.02, rng));
  if (positions) positions_ = add_parameter("positions", normal({1 + tokens, width}, 0.02, rng));
}

Var Tokens::forward(const Var& x) {
  const int64_t width = class_token_.dim(0);
  const Var pixels =
      x.shape().rank() == 4 ? permute(reshape(x, {x.dim(0), width, tokens_}), {0, 2, 1}) : x;
  const Dtype dtype = x.value().dtype();
  const Var zeros(Tensor::zeros({x.dim(0), 1, width}, dtype, x.value().device()));
  const Var first = ens::add(zeros, cast(reshape(class_token_, {1, 1, width}), dtype));
  const Var all = concat(std::array{first, pixels}, 1);
  if (!positions_.defined()) return all;
  return ens::add(all, cast(reshape(positions_, {1, 1 + tokens_, width}), dtype));
}

int Tokens::lower(Graph& graph, int input) const {
  GraphStep s = step(GraphStep::Kind::kTokens, input);
  s.weight = class_token_.value();
  s.bias =
      positions_.defined() ? positions_.value() : Tensor::zeros({1 + tokens_, class_token_.dim(0)});
  return graph.append(std::move(s));
}

Var FirstToken::forward(const Var& x) { return reshape(slice(x, 1, 0, 1), {x.dim(0), x.dim(2)}); }

int FirstToken::lower(Graph& graph, int input) const {
  return graph.append(step(GraphStep::Kind::kFirstToken, input));
}

SelfAttention::SelfAttention(int64_t width, int heads, Rng& rng) : heads_(heads) {
  if (heads < 1 || width % heads != 0) {
    fail(std::to_string(width) + " channels cannot be split into " + std::to_string(heads) +
             " heads",
         "SelfAttention");
  }
  qkv_ = add("qkv", std::make_shared<Linear>(width, 3 * width, true, rng));
  proj_ = add("proj", std::make_shared<Linear>(width, width, true, rng));
}

Var SelfAttention::forward(const Var& x) {
  const int64_t batch = x.dim(0), tokens = x.dim(1), width = x.dim(2), each = width / heads_;
  const Var all =
      permute(reshape(qkv_->forward(x), {batch, tokens, 3, heads_, each}), {2, 0, 3, 1, 4});
  const auto part = [&](int64_t i) {
    return reshape(slice(all, 0, i, 1), {batch, heads_, tokens, each});
  };
  const Var y = permute(attention(part(0), part(1), part(2)), {0, 2, 1, 3});
  return proj_->forward(reshape(y, {batch, tokens, width}));
}

int SelfAttention::lower(Graph& graph, int input) const {
  GraphStep s = step(GraphStep::Kind::kAttention, qkv_->lower(graph, input));
  s.heads = heads_;
  return proj_->lower(graph, graph.append(std::move(s)));
}

TransformerBlock::TransformerBlock(int64_t width, int heads, int64_t hidden, Rng& rng) {
  norm1_ = add("norm1", std::make_shared<LayerNorm>(width));
  attention_ = add("attention", std::make_shared<SelfAttention>(width, heads, rng));
  norm2_ = add("norm2", std::make_shared<LayerNorm>(width));
  up_ = add("up", std::make_shared<Linear>(width, hidden, true, rng));
  down_ = add("down", std::make_shared<Linear>(hidden, width, true, rng));
}

Var TransformerBlock::forward(const Var& x) {
  const Var y = ens::add(x, attention_->forward(norm1_->forward(x)));
  return ens::add(y, down_->forward(gelu(up_->forward(norm2_->forward(y)))));
}

int TransformerBlock::lower(Graph& graph, int input) const {
  const int y = lower_sum(graph, input, attention_->lower(graph, norm1_->lower(graph, input)));
  GraphStep s = step(GraphStep::Kind::kActivation, up_->lower(graph, norm2_->lower(graph, y)));
  s.activation = UnaryOp::kGelu;
  return lower_sum(graph, y, down_->lower(graph, graph.append(std::move(s))));
}

}  // namespace ens
