// SPDX-License-Identifier: Apache-2.0
// Who is who among images that are known by their distances alone (graph matching).
#pragma once

#include <cstdint>
#include <vector>

#include "attacks/core/attack.h"

namespace ens {

// seen [N,N]: distances between N unknown images; expected [N,N]: those of N known ones, in another
// order and to a monotone function and noise. For each row of `seen` the row of `expected`. Only
// the order of the distances counts. It starts from the assignment of rows whose sorted distances
// are alike; then, until nothing changes, each image is given the known one that has the same
// distances to the others as matched so far.
std::vector<int64_t> match_by_distances(const Tensor& seen, const Tensor& expected,
                                        const AttackContext& context);

// [A,B] -> the assignment with the largest sum, A = B.
std::vector<int64_t> assign_largest(const Tensor& similarity);

}  // namespace ens
