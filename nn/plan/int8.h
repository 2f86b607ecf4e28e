// SPDX-License-Identifier: Apache-2.0
// A network whose convolutions and linear layers compute with integers, exactly; all else stays in
// float32.
//
// Weights are int8, symmetric, with a scale for each output channel; inputs are uint8 where they
// cannot be negative, else int8, with one scale from a calibration (input_ranges() in
// nn/plan/float8.h). The products y = f(W, x) are integers, so whoever computes them, in whatever
// order, gets the same network to the bit.
#pragma once

#include <functional>
#include <vector>

#include "nn/core/graph.h"
#include "nn/core/int8_layer.h"

namespace ens {

struct Int8Step {
  size_t step = 0;  // of the graph: a kConv or kLinear
  Int8Layer layer;
  std::vector<float> scales;  // [O]: a weight is its scale times the integer
};

// The layers that read one value: they share its integers.
struct Int8Group {
  std::vector<Int8Step> steps;
  float input_scale = 0;        // an element is input_scale times the integer
  bool input_unsigned = false;  // 0 to 255, else -127 to 127
  Shape input;                  // of one image
  // The largest magnitude that an element of any output can have.
  int64_t largest_output() const;
};

struct Int8Net {
  Graph graph;                    // fused; the weights of its layers are undefined
  std::vector<Int8Group> groups;  // in the order in which they are computed
};

// The groups of a fused graph, without weights and scales.
std::vector<Int8Group> int8_groups(const Graph& fused);

// fused: as fuse() leaves it, every layer calibrated. Error if it has no layer, or one that is not
// calibrated.
Int8Net quantize(const Graph& fused);

// The products of group g, one for each of its steps, kI32, of x [B, ...] kI8 or kU8.
using Int8Products = std::function<std::vector<Tensor>(size_t group, const Tensor& x)>;

// images [B, ...graph input], float32, on the CPU -> [B, ...graph output]. Usage Error for another
// shape of images.
Tensor run_int8(const Int8Net& net, const Tensor& images, const Int8Products& products);
// The same with the CPU's own products.
Tensor run_int8(const Int8Net& net, const Tensor& images);

}  // namespace ens
