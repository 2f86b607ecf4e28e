// SPDX-License-Identifier: Apache-2.0
// The assignment problem (Kuhn 1955; Jonker and Volgenant 1987).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ens {

// cost: n x n, row-major, finite. For every row the column of an assignment of the least sum;
// O(n^3).
std::vector<int64_t> assign(std::span<const double> cost, int64_t n);

}  // namespace ens
