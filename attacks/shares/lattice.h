// SPDX-License-Identifier: Apache-2.0
// Short vectors of integer lattices.
#pragma once

#include <cstdint>
#include <vector>

namespace ens {

// The independent rows of a basis, each as long as there are rows or longer -> a basis reduced by
// LLL (Lenstra, Lenstra, Lovasz 1982; delta .99), shortest vectors first but for its factor. Exact
// integers beside Gram-Schmidt coefficients in floating point (Schnorr and Euchner 1994): for up to
// some sixty rows of numbers below 2^32. Error if it does not end.
std::vector<std::vector<int64_t>> reduce_lll(std::vector<std::vector<int64_t>> basis);

}  // namespace ens
