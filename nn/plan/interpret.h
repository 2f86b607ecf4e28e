// SPDX-License-Identifier: Apache-2.0
// A graph computed step by step with a backend's verbs, by whoever replaces some of the steps:
// calibration and the rounded references. Serving compiles the graph instead (nn/plan/plan.h).
#pragma once

#include <functional>

#include "nn/core/graph.h"

namespace ens {

// Whether the step is a convolution or a linear layer.
bool is_layer(const GraphStep& step);

// What the step makes of x [B, ...] with its bias, without its residual and ReLU; on x's device,
// where the step's weights are.
Tensor run_step(const GraphStep& step, const Tensor& x);

// images [B, ...graph input], B >= 1, float32 -> [B, ...graph output] on their device. layer(i, x)
// stands for run_step() of each convolution and linear layer i. A value is kept until its last
// reader.
// Usage Error for another shape of images.
Tensor interpret(const Graph& graph, const Tensor& images,
                 const std::function<Tensor(size_t step, const Tensor& x)>& layer);

}  // namespace ens
