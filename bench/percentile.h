// The q-th quantile of `values`, q in [0, 1]; 0 if there are none. Reorders them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace ens {

inline double percentile(std::vector<double>& values, double q) {
  if (values.empty()) return 0;
  const auto at =
      values.begin() + static_cast<ptrdiff_t>(q * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

}  // namespace ens
