// SPDX-License-Identifier: Apache-2.0
// fuse: the rewriting of a frozen network that every backend profits from.
#pragma once

#include "nn/core/graph.h"

namespace ens {

// The same function in fewer steps:
// - steps on which the output does not depend are dropped;
// - a channel affine (folded batch norm, see nn/core/graph.h) that directly follows a convolution
// or
//   a linear layer goes into its weight and bias;
// - an addition goes into the convolution that produced one of its operands, as `residual`;
// - a ReLU goes into the convolution, linear layer, channel affine or addition before it (`relu`).
// A step is absorbed only if nothing else reads the value in between and that value is not the
// graph's output. Results differ from the original by float32 rounding of the folded weights.
//
// `graph` is not changed; weights that are not folded are shared with it. Values keep their
// indices and shapes; those that no step writes any more are simply unused.
// Error if a step reads a value before it is written.
Graph fuse(const Graph& graph);

}  // namespace ens
