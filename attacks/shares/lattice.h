// SPDX-License-Identifier: Apache-2.0
// Short vectors of integer lattices (fplll).
#pragma once

#include <cstdint>
#include <vector>

namespace ens {

// The rows of a basis, or of any generators, of a lattice, as long as each other -> a basis reduced
// by LLL (Lenstra, Lenstra, Lovasz 1982), shortest vectors first. Error if it does not end.
std::vector<std::vector<int64_t>> reduce_lll(const std::vector<std::vector<int64_t>>& generators);

}  // namespace ens
