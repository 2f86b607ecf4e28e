// SPDX-License-Identifier: Apache-2.0
#include "attacks/disguise/image_graph.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "attacks/disguise/assignment.h"
#include "nn/core/backend.h"

namespace ens {
namespace {

constexpr int kMostRounds = 40;

// Each distance as its place among all of them, 0 to 1, less its row's mean.
Tensor ranks(const Tensor& distances) {
  const int64_t n = distances.dim(0);
  std::vector<int64_t> order;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i + 1; j < n; ++j) order.push_back(i * n + j);
  }
  const float* d = distances.data<float>();
  std::ranges::sort(order, {}, [d](int64_t at) { return d[at]; });
  Tensor out = Tensor::zeros({n, n});
  for (size_t k = 0; k < order.size(); ++k) {
    const float rank = static_cast<float>(k) / static_cast<float>(order.size());
    out.data<float>()[order[k]] = rank;
    out.data<float>()[order[k] % n * n + order[k] / n] = rank;
  }
  for (int64_t i = 0; i < n; ++i) {
    float* row = out.data<float>() + i * n;
    const float mean = std::accumulate(row, row + n, 0.0f) / static_cast<float>(n);
    for (int64_t j = 0; j < n; ++j) row[j] = i == j ? 0 : row[j] - mean;
  }
  return out;
}

// a b^T.
Tensor products(const Tensor& a, const Tensor& b) {
  Tensor out = Tensor::empty({a.dim(0), b.dim(0)});
  backend(Device{}).gemm(false, true, 1, a, b, 0, out);
  return out;
}

// Less the squared differences of the sorted rows.
Tensor alike_when_sorted(const Tensor& a, const Tensor& b) {
  const auto sorted = [](const Tensor& from) {
    Tensor out = from.clone();
    const int64_t n = out.dim(0);
    for (int64_t i = 0; i < n; ++i)
      std::sort(out.data<float>() + i * n, out.data<float>() + (i + 1) * n);
    return out;
  };
  const Tensor x = sorted(a), y = sorted(b);
  Tensor out = products(x, y);
  const int64_t n = out.dim(0);
  std::vector<float> of_y(static_cast<size_t>(n));
  for (int64_t j = 0; j < n; ++j) {
    const float* row = y.data<float>() + j * n;
    of_y[static_cast<size_t>(j)] = std::inner_product(row, row + n, row, 0.0f);
  }
  for (int64_t i = 0; i < n * n; ++i) {  // the rows of x are the same for all columns
    float& v = out.data<float>()[i];
    v = 2 * v - of_y[static_cast<size_t>(i % n)];
  }
  return out;
}

}  // namespace

std::vector<int64_t> assign_largest(const Tensor& similarity) {
  const int64_t n = similarity.dim(0);
  std::vector<double> cost;
  for (const float v : similarity.span<float>()) cost.push_back(-v);
  return assign(cost, n);
}

std::vector<int64_t> match_by_distances(const Tensor& seen, const Tensor& expected,
                                        const AttackContext& context) {
  const Tensor a = ranks(seen), b = ranks(expected);
  const int64_t n = a.dim(0);
  std::vector<int64_t> match = assign_largest(alike_when_sorted(a, b));
  Tensor reordered = Tensor::empty({n, n});  // the columns of b in the order of a's
  for (int round = 0; round < kMostRounds; ++round) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        reordered.data<float>()[i * n + j] = b.data<float>()[i * n + match[static_cast<size_t>(j)]];
      }
    }
    const std::vector<int64_t> next = assign_largest(products(a, reordered));
    context.report(0, fmt::format("matching by distances, round {}", round + 1));
    if (next == match) break;
    match = next;
  }
  return match;
}

}  // namespace ens
