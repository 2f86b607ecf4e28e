// SPDX-License-Identifier: Apache-2.0
// A Graph by plain loops in double precision, and graphs to compare on.
#pragma once

#include <functional>
#include <vector>

#include "nn/core/graph.h"
#include "nn/core/rng.h"

namespace ens::test {

// input [B, ...graph input] -> all numbers of [B, ...graph output], row-major. Understands both
// plain and fused graphs. `read` may look at, and change, what a step reads of one image.
std::vector<double> interpret(
    const Graph& graph, const Tensor& input,
    const std::function<void(const GraphStep&, std::vector<double>& x)>& read = {});

// Builds graphs step by step with random weights of unit gain.
class Net {
 public:
  explicit Net(const Shape& input, uint64_t seed = 1) : rng_(seed) {
    graph.input = graph.output = graph.add_value(input);
  }

  // Each appends a step reading `x`, makes its value the graph's output and returns it.
  int conv(int x, int64_t channels, int kernel, const ConvSpec& spec = {}, bool bias = true);
  int linear(int x, int64_t features, bool bias = true);
  int affine(int x);  // per channel
  int activation(int x, UnaryOp op, float a = 0, float b = 0);
  int relu(int x) { return activation(x, UnaryOp::kRelu); }
  int add(int x, int y);
  int max_pool(int x, const PoolSpec& spec);
  int avg_pool(int x, const PoolSpec& spec);
  int global_avg_pool(int x);
  int flatten(int x);
  // The basic block of ResNet-18: two convolutions with batch norm, and a 1x1 convolution on the
  // shortcut if the shape changes.
  int res_block(int x, int64_t channels, int stride);

  Graph graph;

 private:
  int append(GraphStep step) { return graph.output = graph.append(std::move(step)); }
  Tensor random(const Shape& shape, float stddev, float mean = 0);

  Rng rng_;
};

Tensor random_batch(int64_t batch, const Shape& one, uint64_t seed = 7);

}  // namespace ens::test
