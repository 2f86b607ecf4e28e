// SPDX-License-Identifier: Apache-2.0
#include "attacks/core/pair_counts.h"

#include <algorithm>

namespace ens {

std::vector<int64_t> pair_counts(const AttackConfig& settings, int64_t available,
                                 std::span<const int64_t> otherwise) {
  const auto& given = settings.known_pairs().counts();
  std::vector<int64_t> counts(given.begin(), given.end());
  if (counts.empty()) counts.assign(otherwise.begin(), otherwise.end());
  std::erase_if(counts, [&](int64_t m) { return m <= 0 || available <= 0; });
  for (int64_t& m : counts) m = std::min(m, available);
  std::ranges::sort(counts);
  counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
  return counts;
}

}  // namespace ens
