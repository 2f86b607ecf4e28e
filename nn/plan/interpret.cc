// SPDX-License-Identifier: Apache-2.0
#include "nn/plan/interpret.h"

#include <string>
#include <vector>

#include "base/error.h"
#include "nn/core/backend.h"

namespace ens {

using Kind = GraphStep::Kind;

bool is_layer(const GraphStep& s) { return s.kind == Kind::kConv || s.kind == Kind::kLinear; }

Tensor run_step(const GraphStep& s, const Tensor& x) {
  Backend& be = backend(x.device());
  switch (s.kind) {
    case Kind::kConv:
      return be.conv2d(x, s.weight, s.bias, s.conv);
    case Kind::kLinear: {
      const int64_t outputs = s.weight.dim(0);
      const Tensor rows = x.plain().reshape({x.numel() / s.weight.dim(1), s.weight.dim(1)});
      Tensor y = Tensor::empty({rows.dim(0), outputs}, Dtype::kF32, be.device());
      be.gemm(false, true, 1.0f, rows, s.weight, 0.0f, y);
      if (s.bias.defined()) y = be.binary(BinaryOp::kAdd, y, s.bias.reshape({1, outputs}));
      Shape shape = x.shape();
      shape.set(x.rank() - 1, outputs);
      return y.reshape(shape);
    }
    case Kind::kChannelAffine:
      return be.channel_affine(x, s.weight, s.bias, false);
    case Kind::kActivation:
      return be.unary(s.activation, x, s.a, s.b);
    case Kind::kAdd:
      return x;
    case Kind::kMaxPool: {
      Tensor workspace;
      return be.max_pool(x, s.pool, false, workspace);
    }
    case Kind::kAvgPool:
      return be.avg_pool(x, s.pool);
    case Kind::kGlobalAvgPool:
      return be.global_avg_pool(x);
    case Kind::kFlatten:
      return x.plain().reshape({x.dim(0), x.numel() / x.dim(0)});
    case Kind::kTokens:
    case Kind::kLayerNorm:
    case Kind::kAttention:
    case Kind::kFirstToken:
      break;  // no transformer is computed in float8 or int8
  }
  fail(std::string("cannot compute a ") + name(s.kind) + " step", "interpret");
}

Tensor interpret(const Graph& graph, const Tensor& images,
                 const std::function<Tensor(size_t, const Tensor&)>& layer) {
  const Shape one = graph.shape(graph.input);
  if (!images.defined() || images.rank() < 1 || images.dim(0) < 1 ||
      !(images.shape() == batched(images.dim(0), one))) {
    usage_fail("the network takes a batch of at least one input of shape " + one.str(), "interpret",
               "check the image size, the split point and the batch axis");
  }
  Backend& be = backend(images.device());
  std::vector<Tensor> values(graph.values.size());
  const auto at = [&](int value) -> Tensor& { return values[static_cast<size_t>(value)]; };
  at(graph.input) = images.to(Dtype::kF32);
  std::vector<size_t> last_reader(graph.values.size(), 0);
  for (size_t i = 0; i < graph.steps.size(); ++i) {
    last_reader[static_cast<size_t>(graph.steps[i].input)] = i;
    if (graph.steps[i].residual >= 0) last_reader[static_cast<size_t>(graph.steps[i].residual)] = i;
  }
  for (size_t i = 0; i < graph.steps.size(); ++i) {
    const GraphStep& step = graph.steps[i];
    const Tensor x = at(step.input);
    Tensor y = is_layer(step) ? layer(i, x) : run_step(step, x);
    if (step.residual >= 0) {
      y = be.binary(step.relu ? BinaryOp::kAddRelu : BinaryOp::kAdd, y, at(step.residual));
    } else if (step.relu) {
      y = be.unary(UnaryOp::kRelu, y, 0, 0);
    }
    at(step.output) = y;
    for (const int read : {step.input, step.residual}) {
      if (read >= 0 && read != graph.output && last_reader[static_cast<size_t>(read)] == i)
        at(read) = {};
    }
  }
  return at(graph.output);
}

}  // namespace ens
