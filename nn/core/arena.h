// SPDX-License-Identifier: Apache-2.0
// Arena: intermediate results in one block of memory, those of them in one place that are not
// needed at the same time.
#pragma once

#include <cstddef>
#include <vector>

namespace ens {

// A piece of the arena.
struct Slot {
  size_t bytes = 0;
  int first = 0, last = 0;  // the operations between which it is in use
  size_t offset = 0;        // set by plan_arena()
};

// Sets every slot's offset, a multiple of `alignment`, such that slots in use at the same time do
// not overlap: largest first, each at the lowest place that is free. The slot `outside` (-1: none)
// and empty slots take no room. Returns the bytes needed.
size_t plan_arena(std::vector<Slot>& slots, size_t alignment, int outside = -1);

}  // namespace ens
