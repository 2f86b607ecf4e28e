// SPDX-License-Identifier: Apache-2.0
#include "attacks/shares/lattice.h"

#include <fplll.h>

#include <algorithm>

#include "base/error.h"

namespace ens {

std::vector<std::vector<int64_t>> reduce_lll(const std::vector<std::vector<int64_t>>& generators) {
  const auto rows = static_cast<int>(generators.size()),
             columns = static_cast<int>(generators.at(0).size());
  fplll::ZZ_mat<mpz_t> basis(rows, columns);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c)
      basis[r][c] = static_cast<long>(generators[static_cast<size_t>(r)][static_cast<size_t>(c)]);
  }
  if (const int status = fplll::lll_reduction(basis); status != fplll::RED_SUCCESS)
    fail(fplll::get_red_status_str(status), "lattice reduction");
  std::vector<std::vector<int64_t>> reduced;
  for (int r = 0; r < rows; ++r) {
    std::vector<int64_t> row;
    for (int c = 0; c < columns; ++c) row.push_back(basis[r][c].get_si());
    if (std::ranges::any_of(row, [](int64_t v) { return v != 0; })) reduced.push_back(row);
  }
  return reduced;
}

}  // namespace ens
