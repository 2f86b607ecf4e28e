// SPDX-License-Identifier: Apache-2.0
#include "nn/plan/fuse.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"

namespace ens {
namespace {

using Kind = GraphStep::Kind;

void check_order(const Graph& graph) {
  std::vector<bool> written(graph.values.size(), false);
  auto at = [&](int value) -> std::vector<bool>::reference {
    if (value < 0 || value >= static_cast<int>(written.size())) {
      fail("a graph names value " + std::to_string(value) + ", which it does not have", "fuse");
    }
    return written[static_cast<size_t>(value)];
  };
  auto read = [&](int value) {
    if (!at(value))
      fail("value " + std::to_string(value) + " is read before it is written", "fuse");
  };
  at(graph.input) = true;
  for (const GraphStep& step : graph.steps) {
    read(step.input);
    if (step.residual >= 0) read(step.residual);
    if (at(step.output)) {
      fail("value " + std::to_string(step.output) + " is written twice", "fuse");
    }
    at(step.output) = true;
  }
  read(graph.output);
}

class Fuser {
 public:
  explicit Fuser(const Graph& graph)
      : graph_(graph),
        alive_(graph.steps.size(), true),
        producer_(graph.values.size(), -1),
        readers_(graph.values.size(), 0) {}

  Graph run() {
    check_order(graph_);
    drop_dead_steps();
    for (int i = 0; i < static_cast<int>(graph_.steps.size()); ++i) {
      if (!alive_[i]) continue;
      GraphStep& step = graph_.steps[i];
      const int before = producer_[step.input];
      if (step.kind == Kind::kChannelAffine && can_fold(before, step.input)) {
        fold(graph_.steps[before], step);
        absorb(before, i);
      } else if (step.kind == Kind::kActivation && step.activation == UnaryOp::kRelu &&
                 can_take_relu(before, step.input)) {
        graph_.steps[before].relu = true;
        absorb(before, i);
      } else if (step.kind == Kind::kAdd) {
        fuse_add(i);
      }
    }
    std::vector<GraphStep> kept;
    for (size_t i = 0; i < graph_.steps.size(); ++i) {
      if (alive_[i]) kept.push_back(std::move(graph_.steps[i]));
    }
    graph_.steps = std::move(kept);
    return std::move(graph_);
  }

 private:
  void drop_dead_steps() {
    readers_[graph_.output] = 1;
    for (int i = static_cast<int>(graph_.steps.size()) - 1; i >= 0; --i) {
      const GraphStep& step = graph_.steps[i];
      alive_[i] = readers_[step.output] > 0;
      if (!alive_[i]) continue;
      producer_[step.output] = i;
      ++readers_[step.input];
      if (step.residual >= 0) ++readers_[step.residual];
    }
  }

  bool only_reader(int step, int value) const { return step >= 0 && readers_[value] == 1; }

  bool can_fold(int before, int value) const {
    if (!only_reader(before, value)) return false;
    const GraphStep& p = graph_.steps[before];
    return (p.kind == Kind::kConv || p.kind == Kind::kLinear) && !p.relu && p.residual < 0;
  }

  bool can_take_relu(int before, int value) const {
    if (!only_reader(before, value)) return false;
    const Kind kind = graph_.steps[before].kind;
    return kind == Kind::kConv || kind == Kind::kLinear || kind == Kind::kChannelAffine ||
           kind == Kind::kAdd;
  }

  // Row o of the weight makes channel o of the result.
  static void fold(GraphStep& layer, const GraphStep& affine) {
    const int64_t rows = layer.weight.dim(0);
    const int64_t row = layer.weight.numel() / std::max<int64_t>(rows, 1);
    Tensor weight = Tensor::empty(layer.weight.shape());
    Tensor bias = Tensor::empty({rows});
    const auto w = layer.weight.span<float>();
    const auto scale = affine.weight.span<float>();
    auto new_w = weight.span<float>();
    auto new_b = bias.span<float>();
    for (int64_t o = 0; o < rows; ++o) {
      for (int64_t i = o * row; i < (o + 1) * row; ++i) new_w[i] = w[i] * scale[o];
      const float b = layer.bias.defined() ? layer.bias.span<float>()[o] * scale[o] : 0.0f;
      new_b[o] = b + (affine.bias.defined() ? affine.bias.span<float>()[o] : 0.0f);
    }
    layer.weight = std::move(weight);
    layer.bias = std::move(bias);
    layer.relu = affine.relu;
  }

  // Step `into` now does the work of `gone` as well and writes its value.
  void absorb(int into, int gone) {
    const int value = graph_.steps[gone].output;
    graph_.steps[into].output = value;
    producer_[value] = into;
    alive_[gone] = false;
  }

  void fuse_add(int i) {
    const GraphStep add = graph_.steps[i];
    int conv = -1, other = -1;
    for (const auto& [mine, theirs] :
         {std::pair(add.input, add.residual), std::pair(add.residual, add.input)}) {
      const int p = producer_[mine];
      if (!only_reader(p, mine) || p < conv) continue;
      const GraphStep& step = graph_.steps[p];
      if (step.kind != Kind::kConv || step.relu || step.residual >= 0) continue;
      conv = p;
      other = theirs;
    }
    if (conv < 0) return;
    // The convolution moves to the addition's place: there the other operand is ready for sure.
    GraphStep step = std::move(graph_.steps[conv]);
    alive_[conv] = false;
    step.residual = other;
    step.relu = add.relu;
    step.output = add.output;
    graph_.steps[i] = std::move(step);
    producer_[add.output] = i;
  }

  Graph graph_;
  std::vector<bool> alive_;
  std::vector<int> producer_;  // value -> the living step that writes it, -1: the graph's input
  std::vector<int> readers_;   // value -> how many living steps read it; the output counts as one
};

}  // namespace

Graph fuse(const Graph& graph) { return Fuser(graph).run(); }

}  // namespace ens
