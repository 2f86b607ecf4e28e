// SPDX-License-Identifier: Apache-2.0
#include "attacks/disguise/assignment.h"

#include <limits>

#include "base/error.h"

namespace ens {

// Shortest augmenting paths with potentials; row and column 0 are the start of every path.
std::vector<int64_t> assign(std::span<const double> cost, int64_t n) {
  if (std::ssize(cost) != n * n) fail("not a square matrix", "assign");
  const auto size = static_cast<size_t>(n) + 1;
  std::vector<double> row_potential(size), column_potential(size), least(size);
  std::vector<size_t> row_of(size), before(size);  // of a column: its row; on the path
  std::vector<bool> done(size);
  for (size_t row = 1; row < size; ++row) {
    row_of[0] = row;
    least.assign(size, std::numeric_limits<double>::infinity());
    done.assign(size, false);
    size_t column = 0;
    do {
      done[column] = true;
      const size_t r = row_of[column];
      double step = std::numeric_limits<double>::infinity();
      size_t next = 0;
      for (size_t c = 1; c < size; ++c) {
        if (done[c]) continue;
        const double reduced =
            cost[(r - 1) * (size - 1) + c - 1] - row_potential[r] - column_potential[c];
        if (reduced < least[c]) least[c] = reduced, before[c] = column;
        if (least[c] < step) step = least[c], next = c;
      }
      if (next == 0) fail("a cost is not finite", "assign");
      for (size_t c = 0; c < size; ++c) {
        if (done[c]) {
          row_potential[row_of[c]] += step, column_potential[c] -= step;
        } else {
          least[c] -= step;
        }
      }
      column = next;
    } while (row_of[column] != 0);
    for (; column != 0; column = before[column]) row_of[column] = row_of[before[column]];
  }
  std::vector<int64_t> columns(static_cast<size_t>(n));
  for (size_t c = 1; c < size; ++c) columns[row_of[c] - 1] = static_cast<int64_t>(c) - 1;
  return columns;
}

}  // namespace ens
