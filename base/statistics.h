// SPDX-License-Identifier: Apache-2.0
// Statistics of lists of values.
#pragma once

#include <vector>

namespace ens {

// The q-th quantile of `values`, q in [0, 1], interpolated linearly between order statistics as
// numpy.percentile does; 0 if there are none.
double percentile(std::vector<double> values, double q);

}  // namespace ens
