// SPDX-License-Identifier: Apache-2.0
#include "nn/core/arena.h"

#include <algorithm>

namespace ens {

size_t plan_arena(std::vector<Slot>& slots, size_t alignment, int outside) {
  const auto rounded = [&](size_t bytes) {
    return (bytes + alignment - 1) / alignment * alignment;
  };
  std::vector<int> order;
  for (int i = 0; i < static_cast<int>(slots.size()); ++i) {
    if (i != outside && slots[i].bytes > 0) order.push_back(i);
  }
  std::ranges::stable_sort(order, [&](int a, int b) { return slots[a].bytes > slots[b].bytes; });
  size_t total = 0;
  std::vector<int> placed;  // by offset
  for (int i : order) {
    Slot& slot = slots[i];
    const size_t bytes = rounded(slot.bytes);
    size_t offset = 0;
    for (int j : placed) {
      const Slot& other = slots[j];
      if (other.last < slot.first || slot.last < other.first) continue;
      if (offset + bytes <= other.offset) break;
      offset = std::max(offset, rounded(other.offset + other.bytes));
    }
    slot.offset = offset;
    total = std::max(total, offset + bytes);
    placed.insert(
        std::ranges::upper_bound(placed, offset, {}, [&](int j) { return slots[j].offset; }), i);
  }
  return total;
}

}  // namespace ens
