// SPDX-License-Identifier: Apache-2.0
#include "nn/plan/float8.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/error.h"
#include "nn/core/backend.h"
#include "nn/core/float8.h"
#include "nn/plan/interpret.h"

namespace ens {
namespace {

constexpr int64_t kAtOnce = 32;  // images: all values of a graph are kept until they are through

// What the graph makes of the images, on their device. Every layer reads what read(its index, its
// input) returns.
Tensor run_steps(Graph graph, const Tensor& images,
                 const std::function<Tensor(size_t, const Tensor&)>& read) {
  for (GraphStep& step : graph.steps) {
    for (Tensor* t : {&step.weight, &step.bias}) {
      if (t->defined()) *t = t->to(images.device());
    }
  }
  const int64_t count = images.defined() && images.rank() > 0 ? images.dim(0) : 0;
  Tensor result;
  for (int64_t first = 0; first == 0 || first < count; first += kAtOnce) {
    const int64_t some = std::min(kAtOnce, count - first);
    const Tensor y =
        interpret(graph, count > 0 ? images.rows(first, some) : images,
                  [&](size_t i, const Tensor& x) { return run_step(graph.steps[i], read(i, x)); });
    if (first == 0) result = Tensor::empty(batched(count, graph.shape(graph.output)));
    result.rows(first, some).copy_from(y.to(Device{}));
  }
  return result;
}

void round(std::span<float> numbers, float scale) {
  for (float& v : numbers) v = static_cast<float>(Float8(v / scale)) * scale;
}

}  // namespace

std::vector<float> input_ranges(const Graph& graph, const Tensor& images) {
  // Without their signs, the bits of numbers are in the numbers' order: finite, infinite, NaN.
  std::vector<uint32_t> largest(graph.steps.size(), 0);
  run_steps(graph, images, [&](size_t i, const Tensor& x) {
    const Tensor here = x.to(Device{});
    for (const float v : here.span<float>()) {
      largest[i] = std::max(largest[i], std::bit_cast<uint32_t>(v) & 0x7fffffffu);
    }
    return x;
  });
  std::vector<float> ranges;
  for (size_t i = 0; i < graph.steps.size(); ++i) {
    if (!is_layer(graph.steps[i])) continue;
    const float range = std::bit_cast<float>(largest[i]);
    if (!std::isfinite(range)) {
      fail("the input of step " + std::to_string(i) + " (" + name(graph.steps[i].kind) +
               ") is not finite",
           "calibration", "check the images and the training");
    }
    ranges.push_back(std::isnormal(range) ? range : 1.0f);
  }
  return ranges;
}

void set_input_ranges(Graph& graph, const std::vector<float>& ranges) {
  const auto layers = static_cast<size_t>(std::ranges::count_if(graph.steps, is_layer));
  if (ranges.size() != layers) {
    fail(std::to_string(ranges.size()) + " ranges for a network of " + std::to_string(layers) +
             " layers",
         "calibration", "calibrate again");
  }
  size_t next = 0;
  for (GraphStep& step : graph.steps) {
    if (!is_layer(step)) continue;
    const float range = ranges[next++];
    if (!(std::isnormal(range) && range > 0 && range <= kLargestInput)) {
      fail("the range of layer " + std::to_string(next) + " is " + std::to_string(range) +
               ", not within 0 and " + std::to_string(kLargestInput),
           "calibration", "calibrate again, or serve this network in bfloat16");
    }
    step.input_max = range;
  }
}

Tensor run_float8(const Graph& fused, const Tensor& images) {
  Graph graph = fused;
  std::vector<float> scales(graph.steps.size(), 0.0f);  // of the inputs that are rounded
  for (size_t i = 0; i < graph.steps.size(); ++i) {
    GraphStep& step = graph.steps[i];
    if (!takes_float8(step)) continue;
    const Float8Scales found = float8_scales(step);
    step.weight = step.weight.clone();
    const auto weight = step.weight.span<float>();
    const size_t row = weight.size() / found.weight.size();
    for (size_t o = 0; o < found.weight.size(); ++o) {
      round(weight.subspan(o * row, row), found.weight[o]);
    }
    scales[i] = found.input;
  }
  return run_steps(graph, images.to(Device{}), [&](size_t i, const Tensor& x) {
    if (scales[i] == 0) return x;
    const Tensor y = x.clone();
    round(y.span<float>(), scales[i]);
    return y;
  });
}

}  // namespace ens
