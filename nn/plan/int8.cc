// SPDX-License-Identifier: Apache-2.0
#include "nn/plan/int8.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <string>

#include "base/error.h"
#include "nn/plan/interpret.h"

namespace ens {
namespace {

using Kind = GraphStep::Kind;

// Which values of the graph cannot be negative, as far as its steps tell.
std::vector<bool> non_negative(const Graph& graph) {
  std::vector<bool> known(graph.values.size(), false);
  for (const GraphStep& s : graph.steps) {
    const bool keeps = s.kind == Kind::kMaxPool || s.kind == Kind::kAvgPool ||
                       s.kind == Kind::kGlobalAvgPool || s.kind == Kind::kFlatten;
    const bool makes = s.kind == Kind::kActivation &&
                       (s.activation == UnaryOp::kRelu || s.activation == UnaryOp::kSigmoid);
    known[static_cast<size_t>(s.output)] =
        s.relu || makes || (keeps && known[static_cast<size_t>(s.input)]);
  }
  return known;
}

void quantize_step(const GraphStep& s, Int8Step& out) {
  const int64_t outputs = s.weight.dim(0), row = s.weight.numel() / outputs;
  out.layer.weight = Tensor::empty(s.weight.shape(), Dtype::kI8);
  const float* w = s.weight.data<float>();
  int8_t* q = out.layer.weight.data<int8_t>();
  for (int64_t o = 0; o < outputs; ++o) {
    float largest = 0;
    for (int64_t i = 0; i < row; ++i) largest = std::max(largest, std::abs(w[o * row + i]));
    const float scale = std::isnormal(largest) ? largest / 127.0f : 1.0f;
    for (int64_t i = 0; i < row; ++i) {
      const float v = std::nearbyint(w[o * row + i] / scale);
      q[o * row + i] = static_cast<int8_t>(std::clamp(v, -127.0f, 127.0f));
    }
    out.scales.push_back(scale);
  }
}

template <typename T>
Tensor round_to(const Tensor& x, float scale, float low, float high) {
  const Tensor plain = x.plain();
  Tensor q = Tensor::empty(plain.shape(), dtype_of<T>());
  const float* from = plain.data<float>();
  T* to = q.data<T>();
  const int64_t count = plain.numel();
  for (int64_t i = 0; i < count; ++i) {
    to[i] = static_cast<T>(std::clamp(std::nearbyint(from[i] / scale), low, high));
  }
  return q;
}

// The layer's float32 output of its integer product.
Tensor dequantize(const Int8Step& step, float input_scale, const Tensor& bias,
                  const Tensor& product) {
  Tensor y = Tensor::empty(product.shape());
  const auto channels = static_cast<int64_t>(step.scales.size());
  const int64_t images = product.dim(0), map = product.numel() / (images * channels);
  const int32_t* from = product.data<int32_t>();
  float* to = y.data<float>();
  for (int64_t b = 0; b < images; ++b) {
    for (int64_t c = 0; c < channels; ++c, from += map, to += map) {
      const float scale = input_scale * step.scales[static_cast<size_t>(c)];
      const float add = bias.defined() ? bias.data<float>()[c] : 0.0f;
      for (int64_t i = 0; i < map; ++i) to[i] = static_cast<float>(from[i]) * scale + add;
    }
  }
  return y;
}

}  // namespace

int64_t Int8Group::largest_output() const {
  int64_t largest = 0;
  for (const Int8Step& step : steps) {
    const auto w = step.layer.weight.span<int8_t>();
    const size_t row = w.size() / step.scales.size();
    for (size_t o = 0; o < step.scales.size(); ++o) {
      int64_t above = 0, below = 0;  // what positive inputs can reach
      for (const int8_t v : w.subspan(o * row, row)) (v > 0 ? above : below) += std::abs(v);
      largest =
          std::max(largest, input_unsigned ? std::max(above, below) * 255 : (above + below) * 127);
    }
  }
  return largest;
}

std::vector<Int8Group> int8_groups(const Graph& fused) {
  const std::vector<bool> unsigned_values = non_negative(fused);
  std::vector<Int8Group> all;
  std::map<int, size_t> group_of;  // a value that layers read
  for (size_t i = 0; i < fused.steps.size(); ++i) {
    const GraphStep& s = fused.steps[i];
    if (!is_layer(s)) continue;
    if (fused.shape(s.input).rank() == 2) {
      usage_fail("a transformer is not computed in 8-bit integers", "int8",
                 "use a convolutional network");
    }
    const auto [at, is_new] = group_of.try_emplace(s.input, all.size());
    if (is_new) {
      all.push_back({.input_unsigned = unsigned_values[static_cast<size_t>(s.input)],
                     .input = fused.shape(s.input)});
    }
    all[at->second].steps.push_back({.step = i, .layer = {.conv = s.conv}});
  }
  return all;
}

Int8Net quantize(const Graph& fused) {
  Int8Net net{fused, int8_groups(fused)};
  if (net.groups.empty()) fail("the network has no convolution and no linear layer", "int8");
  for (Int8Group& group : net.groups) {
    for (Int8Step& step : group.steps) {
      const GraphStep& s = fused.steps[step.step];
      if (!(s.input_max > 0))
        fail("layer " + std::to_string(step.step) + " is not calibrated", "int8");
      group.input_scale = s.input_max / (group.input_unsigned ? 255.0f : 127.0f);
      quantize_step(s, step);
      net.graph.steps[step.step].weight = Tensor();
    }
  }
  return net;
}

Tensor run_int8(const Int8Net& net, const Tensor& images, const Int8Products& products) {
  std::map<size_t, std::pair<size_t, size_t>>
      places;  // step of the graph -> group, step of the group
  for (size_t g = 0; g < net.groups.size(); ++g) {
    for (size_t i = 0; i < net.groups[g].steps.size(); ++i)
      places[net.groups[g].steps[i].step] = {g, i};
  }
  std::vector<std::vector<Tensor>> results(net.groups.size());
  return interpret(net.graph, images, [&](size_t step, const Tensor& x) {
    const auto [g, i] = places.at(step);
    const Int8Group& group = net.groups[g];
    if (results[g].empty()) {
      results[g] =
          products(g, group.input_unsigned ? round_to<uint8_t>(x, group.input_scale, 0, 255)
                                           : round_to<int8_t>(x, group.input_scale, -127, 127));
    }
    const Tensor product = std::move(results[g][i]);
    return dequantize(group.steps[i], group.input_scale, net.graph.steps[step].bias, product);
  });
}

Tensor run_int8(const Int8Net& net, const Tensor& images) {
  return run_int8(net, images, [&](size_t g, const Tensor& x) {
    std::vector<Tensor> all;
    for (const Int8Step& step : net.groups[g].steps) all.push_back(multiply(step.layer, x));
    return all;
  });
}

}  // namespace ens
