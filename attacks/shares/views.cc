// SPDX-License-Identifier: Apache-2.0
#include "attacks/shares/views.h"

#include <algorithm>
#include <cmath>

namespace ens {

Tensor ImageCoding::to_integers(const Tensor& images) const {
  Tensor out = Tensor::empty(images.shape(), Dtype::kI8);
  const int64_t channels = images.dim(1), map = images.dim(2) * images.dim(3);
  const float* from = images.data<float>();
  int8_t* to = out.data<int8_t>();
  for (int64_t i = 0; i < images.numel(); ++i) {
    const auto c = static_cast<size_t>(i / map % channels);
    const float v = std::nearbyint((from[i] - mean[c]) / stddev[c] / scale);
    to[i] = static_cast<int8_t>(std::clamp(v, -127.0f, 127.0f));
  }
  return out;
}

Tensor ImageCoding::to_images(const Tensor& integers) const {
  Tensor out = Tensor::empty(integers.shape());
  const int64_t channels = integers.dim(1), map = integers.dim(2) * integers.dim(3);
  const int32_t* from = integers.data<int32_t>();
  float* to = out.data<float>();
  for (int64_t i = 0; i < integers.numel(); ++i) {
    const auto c = static_cast<size_t>(i / map % channels);
    to[i] = std::clamp(static_cast<float>(from[i]) * scale * stddev[c] + mean[c], 0.0f, 1.0f);
  }
  return out;
}

void grant(const ShareVictim& victim, const AttackContext&, WorkerView& view) {
  view.model = victim.model;
  view.coding = victim.coding;
  view.inputs = victim.inputs;
  view.noises = victim.noises;
  view.code = victim.code;
  view.images = victim.images;
  view.shares = victim.coalition;
  for (const int worker : victim.coalition) {
    view.observed.push_back(victim.recorded.at(static_cast<size_t>(worker)));
  }
  view.public_data = victim.public_data;
  if (!victim.code) return;
  view.encode = [code = *victim.code, coding = victim.coding, shares = victim.coalition](
                    const Tensor& images, Rng& rng) {
    const std::vector<uint32_t> elements = to_residues(code.field(), coding.to_integers(images));
    const auto length = std::ssize(elements) / code.inputs();
    std::vector<std::vector<uint32_t>> rows;
    for (int k = 0; k < code.inputs(); ++k) {
      rows.emplace_back(elements.begin() + k * length, elements.begin() + (k + 1) * length);
    }
    for (int t = 0; t < code.noises(); ++t) {
      rows.emplace_back(rows[0].size());
      for (uint32_t& v : rows.back()) v = static_cast<uint32_t>(rng.below(code.field().prime()));
    }
    const std::vector<std::span<const uint32_t>> spans(rows.begin(), rows.end());
    std::vector<std::vector<uint32_t>> out;
    for (const int j : shares) {
      out.emplace_back(rows[0].size());
      combine(code.field(), code.encoding(j), spans, out.back());
    }
    return out;
  };
}

}  // namespace ens
