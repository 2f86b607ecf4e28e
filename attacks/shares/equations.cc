// SPDX-License-Identifier: Apache-2.0
#include "attacks/shares/equations.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "attacks/shares/lattice.h"
#include "base/error.h"

namespace ens {
namespace {

using Vector = std::vector<double>;

double dot(const Vector& a, const Vector& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

void subtract(Vector& from, double factor, const Vector& what) {
  for (size_t i = 0; i < from.size(); ++i) from[i] -= factor * what[i];
}

std::vector<Vector> gram_schmidt(const std::vector<Vector>& basis) {
  std::vector<Vector> out;
  for (Vector v : basis) {
    for (const Vector& u : out) subtract(v, dot(v, u) / dot(u, u), u);
    out.push_back(v);
  }
  return out;
}

}  // namespace

ShareEquations::ShareEquations(const LagrangeCode& code, std::span<const int> shares)
    : field_(code.field()), inputs_(static_cast<size_t>(code.inputs())) {
  const auto noises = static_cast<size_t>(code.noises());
  if (shares.size() <= noises) fail("the shares are uniform, whatever the inputs");
  const size_t count = std::min(shares.size(), noises + inputs_), rows = count - noises;
  // A row: the coefficients of the noises, of the inputs, and of the shares that it combines.
  std::vector<std::vector<uint32_t>> matrix;
  for (size_t j = 0; j < count; ++j) {
    const auto row = code.encoding(shares[j]);
    auto& out = matrix.emplace_back(row.begin() + static_cast<ptrdiff_t>(inputs_), row.end());
    out.insert(out.end(), row.begin(), row.begin() + static_cast<ptrdiff_t>(inputs_));
    out.resize(noises + inputs_ + count);
    out[noises + inputs_ + j] = 1;
  }
  for (size_t c = 0; c < count; ++c) {  // Gauss-Jordan; the code's matrices are invertible
    const auto pivot = std::find_if(matrix.begin() + static_cast<ptrdiff_t>(c), matrix.end(),
                                    [&](const auto& row) { return row[c] != 0; });
    if (pivot == matrix.end()) fail("the shares depend on each other");
    std::iter_swap(matrix.begin() + static_cast<ptrdiff_t>(c), pivot);
    const uint32_t inverse = field_.inverse(matrix[c][c]);
    for (uint32_t& v : matrix[c]) v = field_.mul(v, inverse);
    for (size_t r = 0; r < count; ++r) {
      const uint32_t factor = r == c ? 0 : matrix[r][c];
      for (size_t i = c; factor != 0 && i < matrix[r].size(); ++i) {
        matrix[r][i] = field_.sub(matrix[r][i], field_.mul(factor, matrix[c][i]));
      }
    }
  }
  // Equation i is now: input i, and some of the inputs from `rows` on, is its right-hand side.
  std::vector<std::vector<int64_t>> basis(inputs_, std::vector<int64_t>(inputs_));
  for (size_t i = 0; i < rows; ++i) {
    const auto& row = matrix[noises + i];
    sides_.emplace_back(row.end() - static_cast<ptrdiff_t>(count), row.end());
    basis[i][i] = field_.prime();
    for (size_t k = rows; k < inputs_; ++k) basis[k][i] = -field_.centred(row[noises + k]);
  }
  for (size_t k = rows; k < inputs_; ++k) basis[k][k] = 1;
  for (const auto& row : reduce_lll(basis)) basis_.emplace_back(row.begin(), row.end());
  planes_ = gram_schmidt(basis_);
  for (Vector& u : planes_) {
    const double square = dot(u, u);
    for (double& v : u) v /= square;
  }
}

std::vector<int32_t> ShareEquations::solve(
    std::span<const std::span<const uint32_t>> residues) const {
  const size_t length = residues[0].size();
  std::vector<std::vector<uint32_t>> sides(sides_.size(), std::vector<uint32_t>(length));
  for (size_t i = 0; i < sides.size(); ++i) {
    combine(field_, sides_[i], residues.first(sides_[i].size()), sides[i]);
  }
  std::vector<int32_t> out(inputs_ * length);
  Vector x(inputs_);
  for (size_t at = 0; at < length; ++at) {
    std::ranges::fill(x, 0.0);
    for (size_t i = 0; i < sides.size(); ++i) x[i] = field_.centred(sides[i][at]);
    for (size_t k = inputs_; k-- > 0;) subtract(x, std::round(dot(x, planes_[k])), basis_[k]);
    for (size_t k = 0; k < inputs_; ++k) {
      out[k * length + at] = static_cast<int32_t>(std::lround(x[k]));
    }
  }
  return out;
}

}  // namespace ens
