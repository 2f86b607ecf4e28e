// SPDX-License-Identifier: Apache-2.0
// Calibration for float8 (nn/core/float8.h): how large the inputs of a network's layers get, found
// on the device of the images, and what float8 makes of its results, found on the CPU; both step by
// step in float32.
#pragma once

#include <vector>

#include "nn/core/graph.h"

namespace ens {

// For each convolution and linear layer of the graph (fused or not), in the order of its steps: the
// largest magnitude that its input has for these images [B, ...graph input], B >= 1. 1 where all
// are zero, which any range fits. Usage Error for another shape, Error if an input is not finite.
std::vector<float> input_ranges(const Graph& graph, const Tensor& images);

// Writes GraphStep::input_max of the same layers; fuse() keeps it. Error unless there is a positive
// finite number for each layer.
void set_input_ranges(Graph& graph, const std::vector<float>& ranges);

// images [B, ...graph input], B >= 1 -> [B, ...graph output], float32, plain, on the CPU, with the
// weights and inputs of every step that takes_float8() rounded as it says and nothing else: what a
// device that computes in float8 is held against. `fused` as fuse() leaves it: folded batch norms
// change the weights that are rounded. Usage Error for another shape of images.
Tensor run_float8(const Graph& fused, const Tensor& images);

}  // namespace ens
