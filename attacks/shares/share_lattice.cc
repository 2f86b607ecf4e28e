// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <optional>
#include <utility>

#include "attacks/shares/lattice.h"
#include "attacks/shares/separation.h"
#include "base/error.h"

namespace ens {
namespace {

using Row = std::vector<uint32_t>;

constexpr int64_t kPixels = 48;  // of the lattice

// Gauss-Jordan elimination of the first `count` columns modulo p.
void eliminate(const Field& field, std::vector<Row>& rows, size_t count) {
  for (size_t c = 0; c < count; ++c) {
    const auto pivot = std::find_if(rows.begin() + static_cast<ptrdiff_t>(c), rows.end(),
                                    [&](const Row& row) { return row[c] != 0; });
    if (pivot == rows.end()) fail("the shares depend on each other", "share-lattice");
    std::iter_swap(rows.begin() + static_cast<ptrdiff_t>(c), pivot);
    const uint32_t inverse = field.inverse(rows[c][c]);
    for (uint32_t& v : rows[c]) v = field.mul(v, inverse);
    for (size_t r = 0; r < rows.size(); ++r) {
      const uint32_t factor = r == c ? 0 : rows[r][c];
      for (size_t i = c; factor != 0 && i < rows[r].size(); ++i)
        rows[r][i] = field.sub(rows[r][i], field.mul(factor, rows[c][i]));
    }
  }
}

// x with sum_j x[j] rows[j] = target modulo p, in all places; the rows are independent.
Row solve(const Field& field, const std::vector<Row>& rows, const std::vector<int64_t>& target) {
  std::vector<Row> equations;  // a place: of each row, and of the target
  for (size_t i = 0; i < target.size(); ++i) {
    Row& e = equations.emplace_back();
    for (const Row& row : rows) e.push_back(row[i]);
    e.push_back(field.of(target[i]));
  }
  eliminate(field, equations, rows.size());
  Row out;
  for (size_t c = 0; c < rows.size(); ++c) out.push_back(equations[c].back());
  return out;
}

// A basis of the lattice of integer combinations of the rows and of the multiples of p.
std::vector<std::vector<int64_t>> lattice_of(const Field& field, std::vector<Row> rows) {
  eliminate(field, rows, rows.size());
  const size_t length = rows[0].size();
  std::vector<std::vector<int64_t>> basis;
  for (const Row& row : rows) basis.emplace_back(row.begin(), row.end());
  for (size_t i = rows.size(); i < length; ++i)
    basis.emplace_back(length)[i] = static_cast<int64_t>(field.prime());
  return basis;
}

// K integer mixtures [K,C,H,W] of the images behind one virtual batch's shares, without noise.
// Error if the shares do not give so many.
Tensor mixtures_of(const Field& field, const std::vector<Row>& shares, int inputs,
                   const Shape& image, Rng& rng) {
  const std::vector<int64_t> order = rng.permutation(image.numel());
  const auto pixels = static_cast<size_t>(std::min(kPixels, image.numel()));
  std::vector<Row> sampled;
  for (const Row& share : shares) {
    Row& row = sampled.emplace_back();
    for (size_t i = 0; i < pixels; ++i) row.push_back(share[static_cast<size_t>(order[i])]);
  }
  const auto reduced = reduce_lll(lattice_of(field, sampled));
  Tensor out = Tensor::empty({inputs, image[0], image[1], image[2]});
  const std::vector<std::span<const uint32_t>> rows(shares.begin(), shares.end());
  Row mixed(static_cast<size_t>(image.numel()));
  for (int k = 0; k < inputs; ++k) {
    const std::vector<int64_t>& vector = reduced.at(static_cast<size_t>(k));
    const Row coefficients = solve(field, sampled, vector);
    combine(field, coefficients, rows, mixed);
    // Noise fills all of the field; so does a mixture that is no small combination.
    const int64_t most = int64_t{field.prime() / 8} * 3;
    const bool is_short =
        std::ranges::none_of(vector, [&](int64_t v) { return std::abs(v) > most; }) &&
        std::ranges::none_of(
            mixed, [&](uint32_t v) { return std::abs(int64_t{field.centred(v)}) > most; });
    // A vector of multiples of p is no combination of the shares at all.
    if (!is_short || std::ranges::count(coefficients, 0u) == std::ssize(coefficients)) {
      fail("the shares hold " + std::to_string(k) + " short mixtures of " + std::to_string(inputs) +
               " images",
           "share-lattice", "more shares may hold more");
    }
    std::ranges::transform(mixed, out.data<float>() + k * image.numel(),
                           [&](uint32_t v) { return static_cast<float>(field.centred(v)); });
  }
  return out;
}

class ShareLattice : public ShareAttack {
 public:
  std::string name() const override { return "share-lattice"; }
  std::string title() const override {
    return "short vectors of the shares' lattice, without the code";
  }
  AttackCost cost(const ShareSetting&, const AttackConfig&) const override { return {}; }
  std::string not_applicable_reason(const ShareSetting& setting) const override {
    return setting.shares > setting.noises ? "" : "no more shares than noises are uniform";
  }

  std::vector<Reconstruction> run_on(const WorkerView& view,
                                     const AttackContext& context) override {
    if (!view.code) fail("the shares are real numbers", name(), "use share-ica");
    const Field& field = view.code->field();
    const Shape shape = view.observed.at(0).shape(), image{shape[1], shape[2], shape[3]};
    Rng rng(context.seed, "share-lattice");
    Reconstruction r;
    r.candidate = "short mixtures";
    r.images = from_virtual_batches(view, context, [&](int64_t g) {
      std::vector<Row> shares;
      for (const Tensor& share : view.observed) {
        const int32_t* from = share.data<int32_t>() + g * image.numel();
        shares.emplace_back(from, from + image.numel());
      }
      const Tensor mixtures = mixtures_of(field, shares, view.inputs, image, rng);
      return components_to_images(separate(mixtures, 0, false, rng), view.coding, false);
    });
    return {r};
  }
};

}  // namespace

std::unique_ptr<ShareAttack> share_lattice_attack() { return std::make_unique<ShareLattice>(); }

}  // namespace ens
