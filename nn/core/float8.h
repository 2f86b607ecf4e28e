// SPDX-License-Identifier: Apache-2.0
// How a calibrated layer is computed in float8 (e4m3): which layers, and with what scales.
//
//   y = (sum of Float8(x / input) * Float8(w / weight[o])) * input * weight[o] + bias, ...
//
// with float32 sums (tensor cores may keep fewer bits); what is added and the result are as without
// float8. Layers that cannot be, and all others, stay in the activations' type.
#pragma once

#include <vector>

#include "nn/core/graph.h"

namespace ens {

// Convolutions and linear layers whose input is calibrated (GraphStep::input_max), without groups,
// with channels in multiples of 16: what tensor cores take.
bool takes_float8(const GraphStep& step);
// Ranges beyond it are refused, as between layers in float8 there may be float16s, which end at
// 65504.
inline constexpr float kLargestInput = 8192;

struct Float8Scales {
  float input;                // of the whole layer
  std::vector<float> weight;  // one for each output channel
};
// Of a step that takes_float8(). The largest weight of a channel becomes the largest float8; inputs
// may be twice as large as in the calibration before they are cut off.
Float8Scales float8_scales(const GraphStep& step);

}  // namespace ens
