// SPDX-License-Identifier: Apache-2.0
#include "attacks/text/codes.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <tuple>
#include <unordered_map>

#include "base/error.h"
#include "nn/core/backend.h"
#include "nn/modules/seq2seq.h"

namespace ens {
namespace {

constexpr double kSame = 2e-4;    // of a coordinate: what rounding may change
constexpr size_t kVoters = 150;   // commonest vectors of a place that look for its shift
constexpr int64_t kBlock = 1024;  // vectors that meet the centres together

using Row = std::vector<float>;

// Rows by a few rounded coordinates, to be found again within kSame.
class RowIndex {
 public:
  void add(int32_t id, const Row& row) { cells_[cell(row[0])].push_back({id, row}); }
  // -1: none.
  int32_t find(const Row& row) const {
    const int64_t at = cell(row[0]);
    for (int64_t c = at - 1; c <= at + 1; ++c) {
      const auto found = cells_.find(c);
      if (found == cells_.end()) continue;
      for (const auto& [id, other] : found->second) {
        if (same(row, other)) return id;
      }
    }
    return -1;
  }

 private:
  static int64_t cell(float x) { return std::llround(static_cast<double>(x) / (4 * kSame)); }
  static bool same(const Row& a, const Row& b) {
    for (size_t i = 0; i < a.size(); ++i) {
      if (std::abs(a[i] - b[i]) > kSame * std::max(1.0f, std::abs(a[i]))) return false;
    }
    return true;
  }
  std::unordered_map<int64_t, std::vector<std::pair<int32_t, Row>>> cells_;
};

struct Place {  // one position of a sentence
  std::vector<Row> rows;
  std::vector<int64_t> counts;
  std::vector<std::pair<size_t, size_t>> members;  // (sentence, its row here)
};

Row row_of(const Tensor& sentence, int64_t at) {
  const float* from = sentence.data<float>() + at * sentence.dim(1);
  return {from, from + sentence.dim(1)};
}

std::vector<size_t> commonest(const std::vector<int64_t>& counts) {
  std::vector<size_t> order(counts.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return counts[a] > counts[b]; });
  order.resize(std::min(order.size(), kVoters));
  return order;
}

// The difference of a place's vectors and those known so far that most pairs agree on; empty if no
// two pairs do.
Row vote(const Place& place, const std::vector<Row>& known, const std::vector<int64_t>& counts) {
  std::map<std::tuple<int64_t, int64_t, int64_t>, std::pair<int64_t, Row>> votes;
  const auto key = [](float a, float b) {
    return std::llround((static_cast<double>(a) - b) / (8 * kSame));
  };
  const std::vector<size_t> others = commonest(counts);
  for (const size_t i : commonest(place.counts)) {
    for (const size_t j : others) {
      const Row &a = place.rows[i], &b = known[j];
      auto& [number, shift] = votes[{key(a[0], b[0]), key(a[1], b[1]), key(a[2], b[2])}];
      if (number++ > 0) continue;
      shift.resize(a.size());
      for (size_t d = 0; d < a.size(); ++d) shift[d] = a[d] - b[d];
    }
  }
  const std::pair<int64_t, Row>* best = nullptr;
  for (const auto& [_, one] : votes) {
    if (!best || one.first > best->first) best = &one;
  }
  return best && best->first >= 2 ? best->second : Row();
}

TextCodes exact_codes(const std::vector<Tensor>& sentences) {
  std::map<int64_t, Place> places;
  TextCodes out;
  for (size_t s = 0; s < sentences.size(); ++s) {
    out.sentences.emplace_back(static_cast<size_t>(sentences[s].dim(0)), -1);
  }
  for (int64_t p = 0;; ++p) {
    Place place;
    RowIndex index;
    for (size_t s = 0; s < sentences.size(); ++s) {
      if (p >= sentences[s].dim(0)) continue;
      const Row row = row_of(sentences[s], p);
      int32_t found = index.find(row);
      if (found < 0) {
        found = static_cast<int32_t>(place.rows.size());
        index.add(found, row);
        place.rows.push_back(row);
        place.counts.push_back(0);
      }
      ++place.counts[static_cast<size_t>(found)];
      place.members.emplace_back(s, static_cast<size_t>(found));
    }
    if (place.members.empty()) break;
    places[p] = std::move(place);
  }
  // The place with most words first, then by falling number of sentences.
  std::vector<int64_t> order;
  for (const auto& [p, place] : places) order.push_back(p);
  std::ranges::stable_sort(order, [&](int64_t a, int64_t b) {
    const auto many = [&](int64_t p) { return p == 0 ? 0 : places[p].members.size(); };
    return many(a) > many(b);
  });
  RowIndex index;
  std::vector<Row> known;
  std::vector<int64_t> counts;
  for (const int64_t p : order) {
    const Place& place = places[p];
    Row shift = known.empty() ? Row(place.rows[0].size()) : vote(place, known, counts);
    const bool joined = !shift.empty();
    std::vector<int32_t> codes;
    for (size_t i = 0; i < place.rows.size(); ++i) {
      Row row = place.rows[i];
      for (size_t d = 0; joined && d < row.size(); ++d) row[d] -= shift[d];
      int32_t code = joined ? index.find(row) : -1;
      if (code < 0) {
        code = out.count++;
        known.push_back(row);
        counts.push_back(0);
        if (joined) index.add(code, row);
      }
      counts[static_cast<size_t>(code)] += place.counts[i];
      codes.push_back(code);
    }
    for (const auto& [s, row] : place.members) {
      out.sentences[s][static_cast<size_t>(p)] = codes[row];
    }
  }
  return out;
}

// Leaders: a vector joins the nearest centre within `reach`, or becomes one.
TextCodes noisy_codes(const std::vector<Tensor>& sentences, double sigma) {
  const int64_t width = sentences[0].dim(1);
  const double reach = 1.3 * sigma * std::sqrt(2.0 * static_cast<double>(width));
  std::vector<std::pair<size_t, size_t>> at;
  for (size_t s = 0; s < sentences.size(); ++s) {
    for (int64_t p = 0; p < sentences[s].dim(0); ++p) at.emplace_back(s, static_cast<size_t>(p));
  }
  TextCodes out;
  out.sigma = sigma;
  for (const Tensor& s : sentences) out.sentences.emplace_back(static_cast<size_t>(s.dim(0)), -1);
  std::vector<float> centres;  // sums
  std::vector<double> members;
  Backend& be = backend(Device{});
  const auto total = static_cast<int64_t>(at.size());
  for (int64_t begin = 0; begin < total; begin += kBlock) {
    const int64_t n = std::min(kBlock, total - begin);
    Tensor x = Tensor::empty({n, width});
    for (int64_t i = 0; i < n; ++i) {
      const auto [s, p] = at[static_cast<size_t>(begin + i)];
      std::copy_n(sentences[s].data<float>() + static_cast<int64_t>(p) * width, width,
                  x.data<float>() + i * width);
    }
    const int64_t before = out.count;
    Tensor means = Tensor::empty({std::max<int64_t>(before, 1), width}), products;
    std::vector<float> norms(static_cast<size_t>(before));
    for (int64_t c = 0; c < before; ++c) {
      for (int64_t d = 0; d < width; ++d) {
        const float m = centres[static_cast<size_t>(c * width + d)] /
                        static_cast<float>(members[static_cast<size_t>(c)]);
        means.data<float>()[c * width + d] = m;
        norms[static_cast<size_t>(c)] += m * m;
      }
    }
    if (before > 0) {
      products = Tensor::empty({n, before});
      be.gemm(false, true, 1, x, means, 0, products);
    }
    for (int64_t i = 0; i < n; ++i) {
      const float* row = x.data<float>() + i * width;
      float own = 0;
      for (int64_t d = 0; d < width; ++d) own += row[d] * row[d];
      double best = reach * reach;
      int32_t code = -1;
      for (int64_t c = 0; c < out.count; ++c) {
        double distance = 0;
        if (c < before) {
          distance =
              own + norms[static_cast<size_t>(c)] - 2 * products.data<float>()[i * before + c];
        } else {  // made in this block
          const auto m = static_cast<float>(members[static_cast<size_t>(c)]);
          for (int64_t d = 0; d < width; ++d) {
            const float gap = row[d] - centres[static_cast<size_t>(c * width + d)] / m;
            distance += static_cast<double>(gap) * gap;
          }
        }
        if (distance < best) best = distance, code = static_cast<int32_t>(c);
      }
      if (code < 0) {
        code = out.count++;
        centres.insert(centres.end(), row, row + width);
        members.push_back(1);
      } else {
        for (int64_t d = 0; d < width; ++d) {
          centres[static_cast<size_t>(code * width + d)] += row[d];
        }
        ++members[static_cast<size_t>(code)];
      }
      const auto [s, p] = at[static_cast<size_t>(begin + i)];
      out.sentences[s][p] = code;
    }
  }
  return out;
}

// The standard deviation of the begin symbol's vectors.
double spread_of_begin(const std::vector<Tensor>& sentences) {
  const int64_t width = sentences[0].dim(1);
  double sum = 0;
  for (int64_t d = 0; d < width; ++d) {
    double mean = 0, squares = 0;
    const double first = sentences[0].data<float>()[d];  // so that equal numbers give exactly 0
    for (const Tensor& s : sentences) {
      const double v = s.data<float>()[d] - first;
      mean += v, squares += v * v;
    }
    const auto n = static_cast<double>(sentences.size());
    sum += std::max(0.0, squares / n - mean / n * (mean / n));
  }
  return std::sqrt(sum / static_cast<double>(width));
}

}  // namespace

Tensor without_positions(const Tensor& sentence) {
  const Tensor plain = sentence.to(Dtype::kF32).plain();
  return backend(Device{}).binary(BinaryOp::kSub, plain,
                                  sinusoid_positions(plain.dim(0), plain.dim(1)));
}

TextCodes find_codes(const std::vector<Tensor>& sent) {
  if (sent.empty() || sent[0].dim(1) < 3) fail("no sentences with features of some width", "codes");
  std::vector<Tensor> plain;
  for (const Tensor& s : sent) plain.push_back(without_positions(s));
  const double sigma = spread_of_begin(plain);
  return sigma <= kSame ? exact_codes(plain) : noisy_codes(plain, sigma);
}

}  // namespace ens
