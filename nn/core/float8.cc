// SPDX-License-Identifier: Apache-2.0
#include "nn/core/float8.h"

#include <algorithm>
#include <cmath>

namespace ens {
namespace {

// Numbers as large as `largest` as Float8s up to `most`. Smaller ones than 1e-30 make no
// difference, and would make the scale's reciprocal infinite.
float scale_of(float largest, float most) { return std::max(largest, 1e-30f) / most; }

}  // namespace

bool takes_float8(const GraphStep& s) {
  const bool layer = s.kind == GraphStep::Kind::kConv || s.kind == GraphStep::Kind::kLinear;
  return layer && s.input_max > 0 && std::isfinite(s.input_max) && s.conv.groups == 1 &&
         s.weight.dim(0) % 16 == 0 && s.weight.dim(1) % 16 == 0;
}

Float8Scales float8_scales(const GraphStep& s) {
  Float8Scales scales{scale_of(s.input_max, Float8::kMax / 2), {}};
  const auto weight = s.weight.span<float>();
  const size_t outputs = static_cast<size_t>(s.weight.dim(0)), one = weight.size() / outputs;
  for (size_t o = 0; o < outputs; ++o) {
    float largest = 0;
    for (const float w : weight.subspan(o * one, one)) largest = std::max(largest, std::abs(w));
    scales.weight.push_back(scale_of(largest, Float8::kMax));
  }
  return scales;
}

}  // namespace ens
