// SPDX-License-Identifier: Apache-2.0
#include "nn/core/graph.h"

#include <algorithm>

#include "base/error.h"

namespace ens {

const char* name(GraphStep::Kind kind) {
  constexpr const char* kNames[] = {
      "conv",       "linear",       "channel affine",      "activation", "add",
      "max pool",   "average pool", "global average pool", "flatten",    "tokens",
      "layer norm", "attention",    "first token"};
  return kNames[static_cast<size_t>(kind)];
}

int Graph::add_value(const Shape& shape) {
  values.push_back(shape);
  return static_cast<int>(values.size()) - 1;
}

int Graph::append(GraphStep step) {
  using Kind = GraphStep::Kind;
  for (Tensor* t : {&step.weight, &step.bias}) {
    if (t->defined()) *t = t->to(Device{});
  }
  const Shape in = shape(step.input);
  auto check = [&](bool ok) {
    if (!ok) fail("a " + std::string(name(step.kind)) + " step does not fit " + in.str(), "Graph");
  };
  auto pooled = [&](int axis) {
    return (in[axis] + 2 * step.pool.padding - step.pool.kernel) / step.pool.stride + 1;
  };
  Shape out = in;
  switch (step.kind) {
    case Kind::kConv: {
      check(in.rank() == 3 && in[0] == step.weight.dim(1) * step.conv.groups);
      for (int axis : {1, 2}) {
        check(in[axis] + 2 * step.conv.padding >
              step.conv.dilation * (step.weight.dim(axis + 1) - 1));
      }
      auto size = [&](int axis) {
        const int64_t reach = step.conv.dilation * (step.weight.dim(axis + 1) - 1) + 1;
        return (in[axis] + 2 * step.conv.padding - reach) / step.conv.stride + 1;
      };
      out = {step.weight.dim(0), size(1), size(2)};
      break;
    }
    case Kind::kLinear:
      check((in.rank() == 1 || in.rank() == 2) && in[in.rank() - 1] == step.weight.dim(1));
      out.set(in.rank() - 1, step.weight.dim(0));
      break;
    case Kind::kChannelAffine:
      check((in.rank() == 1 || in.rank() == 3) && in[0] == step.weight.numel());
      break;
    case Kind::kActivation:
      break;
    case Kind::kAdd:
      check(shape(step.residual) == in);
      break;
    case Kind::kMaxPool:
    case Kind::kAvgPool:
      check(in.rank() == 3);
      for (int axis : {1, 2}) check(in[axis] + 2 * step.pool.padding >= step.pool.kernel);
      out = {in[0], pooled(1), pooled(2)};
      break;
    case Kind::kGlobalAvgPool:
      check(in.rank() == 3);
      out = {in[0]};
      break;
    case Kind::kFlatten:
      out = {in.numel()};
      break;
    case Kind::kTokens: {
      const int64_t width = step.weight.numel();
      check((in.rank() == 3 && in[0] == width) || (in.rank() == 2 && in[1] == width));
      out = {1 + in.numel() / width, width};
      check(step.bias.shape() == out);
      break;
    }
    case Kind::kLayerNorm:
      check(in.rank() == 2 && in[1] == step.weight.numel() && in[1] == step.bias.numel());
      break;
    case Kind::kAttention:
      check(in.rank() == 2 && step.heads > 0 && in[1] % (3 * step.heads) == 0);
      out = {in[0], in[1] / 3};
      break;
    case Kind::kFirstToken:
      check(in.rank() == 2);
      out = {in[1]};
      break;
  }
  step.output = add_value(out);
  const int result = step.output;
  steps.push_back(std::move(step));
  return result;
}

int64_t Graph::parameters() const {
  int64_t total = 0;
  for (const GraphStep& s : steps) {
    if (s.weight.defined()) total += s.weight.numel();
    if (s.bias.defined()) total += s.bias.numel();
  }
  return total;
}

int64_t Graph::flops() const {
  int64_t total = 0;
  for (const GraphStep& s : steps) {
    if (s.kind == GraphStep::Kind::kConv) {
      const Shape& out = shape(s.output);
      total += 2 * s.weight.numel() * out[1] * out[2];
    } else if (s.kind == GraphStep::Kind::kLinear) {
      const Shape& in = shape(s.input);
      total += 2 * s.weight.numel() * (in.rank() == 2 ? in[0] : 1);
    } else if (s.kind == GraphStep::Kind::kAttention) {
      const Shape& out = shape(s.output);
      total += 4 * out[0] * out[0] * out[1];
    }
  }
  return total;
}

void check_compilable(const std::vector<Graph>& nets, int64_t max_batch) {
  if (max_batch < 1) {
    usage_fail("the maximal batch must be at least 1, not " + std::to_string(max_batch), "compile");
  }
  for (const Shape& one : nets.at(0).values) {
    if (one.rank() >= Shape::kMaxRank - 1) {
      usage_fail("no room for the axes of nets and batch in a value of shape " + one.str(),
                 "compile");
    }
  }
}

int64_t batch_bucket(int64_t batch, int64_t max_batch) {
  int64_t unit = 1;
  while (batch > 8 * unit) unit *= 2;
  return std::min((batch + unit - 1) / unit * unit, max_batch);
}

}  // namespace ens
