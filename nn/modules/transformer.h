// SPDX-License-Identifier: Apache-2.0
// The layers of transformers, over tokens [B,L,D]: Dosovitskiy et al., "An Image is Worth 16x16
// Words" (2010.11929), with layer normalisation first. Initial values as PyTorch's nn.Linear and
// nn.LayerNorm.
#pragma once

#include <memory>

#include "nn/core/rng.h"
#include "nn/modules/layers.h"

namespace ens {

// gamma * (x - mean) / sqrt(var + 1e-5) + beta over each token.
class LayerNorm : public Module {
 public:
  explicit LayerNorm(int64_t width);
  Var forward(const Var& x) override;
  int lower(Graph& graph, int input) const override;

 private:
  Var gamma_, beta_;
};

// [B,D,H,W] (a token for each pixel, row by row) or [B,L,D] -> [B,1+L,D]: a learned token comes
// first, and with `positions` a learned vector is added at each place.
class Tokens : public Module {
 public:
  Tokens(int64_t width, int64_t tokens, bool positions, Rng& rng);
  Var forward(const Var& x) override;
  int lower(Graph& graph, int input) const override;

 private:
  Var class_token_, positions_;  // [D], [1+L,D] or undefined
  int64_t tokens_;
};

class FirstToken : public Module {  // [B,L,D] -> [B,D]
 public:
  Var forward(const Var& x) override;
  int lower(Graph& graph, int input) const override;
};

// Multi-head self-attention: parameters qkv [3*D,D] (queries, keys, values) and proj [D,D].
class SelfAttention : public Module {
 public:
  SelfAttention(int64_t width, int heads, Rng& rng);
  Var forward(const Var& x) override;
  int lower(Graph& graph, int input) const override;

 private:
  int heads_;
  std::shared_ptr<Linear> qkv_, proj_;
};

// x + attention(norm(x)), then x + mlp(norm(x)), mlp = linear, GELU, linear with `hidden` elements.
class TransformerBlock : public Module {
 public:
  TransformerBlock(int64_t width, int heads, int64_t hidden, Rng& rng);
  Var forward(const Var& x) override;
  int lower(Graph& graph, int input) const override;

 private:
  std::shared_ptr<LayerNorm> norm1_, norm2_;
  std::shared_ptr<SelfAttention> attention_;
  std::shared_ptr<Linear> up_, down_;
};

}  // namespace ens
