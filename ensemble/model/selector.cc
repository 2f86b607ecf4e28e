// SPDX-License-Identifier: Apache-2.0
#include "ensemble/model/selector.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

// The first `count` of a random permutation of [0, nets); below(n) is uniform on [0, n).
template <typename Below>
std::vector<int> choose(int nets, int count, Below below) {
  if (count < 1 || count > nets) usage_fail("a selector needs 1 to N of the N nets", "selector");
  std::vector<int> order(static_cast<size_t>(nets));
  std::iota(order.begin(), order.end(), 0);
  for (int i = 0; i < count; ++i) {
    std::swap(order[i], order[i + static_cast<int>(below(static_cast<uint64_t>(nets - i)))]);
  }
  order.resize(static_cast<size_t>(count));
  return order;
}

// Rejects the incomplete last interval, so that every value is equally likely.
uint64_t secure_below(uint64_t n) {
  const uint64_t limit = UINT64_MAX - UINT64_MAX % n;
  uint64_t value = secure_random();
  while (value >= limit) value = secure_random();
  return value % n;
}

}  // namespace

Selector::Selector(int nets, std::vector<int> selected)
    : nets_(nets), selected_(std::move(selected)) {
  std::ranges::sort(selected_);
  const bool good = !selected_.empty() && selected_.front() >= 0 && selected_.back() < nets &&
                    std::ranges::adjacent_find(selected_) == selected_.end();
  if (!good) usage_fail("a selector needs 1 to N distinct server nets", "selector");  // no values
}

Selector Selector::draw(int nets, int selected) {
  return Selector(nets, choose(nets, selected, secure_below));
}

Selector Selector::seeded(int nets, int selected, uint64_t seed) {
  Rng rng(seed, "selector");
  return Selector(nets, choose(nets, selected, [&](uint64_t n) { return rng.below(n); }));
}

Tensor Selector::combine(const Tensor& outputs) const {
  if (outputs.rank() < 3 || outputs.dim(0) != nets_) {
    fail("outputs " + outputs.shape().str() + " are not those of " + std::to_string(nets_) +
             " server nets",
         "selector");
  }
  const int64_t batch = outputs.dim(1), size = outputs.numel() / (nets_ * batch);
  Shape shape(outputs.shape().dims().subspan(1));
  shape.set(1, shape[1] * count());
  const Tensor plain = outputs.plain();
  Tensor out = Tensor::empty(shape);
  const float scale = 1.0f / static_cast<float>(count());
  float* to = out.data<float>();
  for (int64_t b = 0; b < batch; ++b) {
    for (int net : selected_) {
      const float* from = plain.data<float>() + (net * batch + b) * size;
      for (int64_t i = 0; i < size; ++i) *to++ = from[i] * scale;
    }
  }
  return out;
}

}  // namespace ens
