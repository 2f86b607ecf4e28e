// SPDX-License-Identifier: Apache-2.0
#include "offload/core/coding.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <random>

#include "base/error.h"

namespace ens {
namespace {

// Calls f with every subset of `size` of 0..n-1.
template <typename F>
void for_each_subset(int n, int size, F f) {
  for (int bits = 0; bits < 1 << n; ++bits) {
    if (__builtin_popcount(static_cast<unsigned>(bits)) != size) continue;
    std::vector<int> subset;
    for (int i = 0; i < n; ++i) {
      if (bits >> i & 1) subset.push_back(i);
    }
    f(subset);
  }
}

// What the workers of `subset` see of one element, over all noises: how often each tuple of shares
// occurs.
std::map<std::vector<uint32_t>, int> distribution(const LagrangeCode& code,
                                                  const std::vector<uint32_t>& inputs,
                                                  const std::vector<int>& subset) {
  const uint32_t p = code.field().prime();
  std::map<std::vector<uint32_t>, int> seen;
  std::vector<uint32_t> row(inputs);
  row.resize(inputs.size() + static_cast<size_t>(code.noises()));
  int noises = 1;
  for (int t = 0; t < code.noises(); ++t) noises *= static_cast<int>(p);
  for (int n = 0; n < noises; ++n) {
    for (int t = 0, rest = n; t < code.noises(); ++t, rest /= static_cast<int>(p)) {
      row[inputs.size() + static_cast<size_t>(t)] = static_cast<uint32_t>(rest) % p;
    }
    std::vector<uint32_t> shares;
    for (const int j : subset) {
      uint64_t sum = 0;
      for (size_t i = 0; i < row.size(); ++i) sum += uint64_t{code.encoding(j)[i]} * row[i];
      shares.push_back(static_cast<uint32_t>(sum % p));
    }
    ++seen[shares];
  }
  return seen;
}

// Exact secrecy, by enumeration: any T shares have one joint distribution, the uniform one,
// whatever the inputs; T + 1 shares do not.
TEST(Coding, AnyTSharesAreUniformWhateverTheInputsAndOneMoreIsNot) {
  constexpr int kInputs = 2;
  for (const uint32_t p : {7u, 11u}) {
    for (const int noises : {1, 2}) {
      const int shares = static_cast<int>(p) - kInputs;  // as many as there are points
      const LagrangeCode code(Field(p), kInputs, noises, shares);
      for (const int size : {noises, noises + 1}) {
        for_each_subset(shares, size, [&](const std::vector<int>& subset) {
          const auto zero = distribution(code, {0, 0}, subset);
          bool same = true;
          for (uint32_t a = 0; a < p; ++a) {
            for (uint32_t b = 0; b < p; ++b) same &= distribution(code, {a, b}, subset) == zero;
          }
          ASSERT_EQ(same, size == noises)
              << "p = " << p << ", T = " << noises << ", " << size << " shares";
          if (size > noises) return;
          ASSERT_EQ(zero.size(), static_cast<size_t>(std::pow(p, noises)));
          for (const auto& [tuple, count] : zero) ASSERT_EQ(count, 1);
        });
      }
    }
  }
}

// The determinant modulo p, by elimination.
uint32_t determinant(const Field& f, std::vector<std::vector<uint32_t>> m) {
  uint32_t det = 1;
  const size_t n = m.size();
  for (size_t c = 0; c < n; ++c) {
    size_t pivot = c;
    while (pivot < n && m[pivot][c] == 0) ++pivot;
    if (pivot == n) return 0;
    if (pivot != c) det = f.sub(0, det);
    std::swap(m[pivot], m[c]);
    det = f.mul(det, m[c][c]);
    const uint32_t inverse = f.inverse(m[c][c]);
    for (size_t r = c + 1; r < n; ++r) {
      const uint32_t factor = f.mul(m[r][c], inverse);
      for (size_t i = c; i < n; ++i) m[r][i] = f.sub(m[r][i], f.mul(factor, m[c][i]));
    }
  }
  return det;
}

TEST(Coding, TheNoiseColumnsOfAnyTSharesAreInvertible) {
  for (const char* name : {"m31", "p24"}) {
    const Field field = Field::named(name);
    for (const int inputs : {1, 2, 4}) {
      for (const int noises : {1, 2, 3}) {
        const int shares = inputs + noises + 2;
        const LagrangeCode code(field, inputs, noises, shares);
        for_each_subset(shares, noises, [&](const std::vector<int>& subset) {
          std::vector<std::vector<uint32_t>> columns;
          for (const int j : subset) {
            const auto row = code.encoding(j);
            columns.emplace_back(row.begin() + inputs, row.end());
          }
          ASSERT_NE(determinant(field, columns), 0u);
        });
      }
    }
  }
}

TEST(Coding, AnyKPlusTSharesDecodeWhatALinearFunctionMakesOfThem) {
  std::mt19937_64 random(3);
  const Field field = Field::named("m31");
  for (const int inputs : {1, 2, 3}) {
    for (const int noises : {0, 1, 2}) {
      const int shares = 8 - inputs;
      if (shares < inputs + noises) continue;
      const LagrangeCode code(field, inputs, noises, shares);
      constexpr size_t kSize = 13;
      std::vector<std::vector<uint32_t>> rows(static_cast<size_t>(code.needed()),
                                              std::vector<uint32_t>(kSize));
      for (auto& row : rows) {
        for (uint32_t& v : row) v = static_cast<uint32_t>(random() % field.prime());
      }
      const auto factor = static_cast<uint32_t>(random() % field.prime());  // the linear function
      const std::vector<std::span<const uint32_t>> spans(rows.begin(), rows.end());
      std::vector<std::vector<uint32_t>> outputs;
      for (int j = 0; j < shares; ++j) {
        outputs.emplace_back(kSize);
        combine(field, code.encoding(j), spans, outputs.back());
        for (uint32_t& v : outputs.back()) v = field.mul(v, factor);
      }
      for_each_subset(shares, code.needed(), [&](std::vector<int> subset) {
        std::shuffle(subset.begin(), subset.end(), random);  // replies come in any order
        std::vector<std::span<const uint32_t>> some;
        for (const int j : subset) some.push_back(outputs[static_cast<size_t>(j)]);
        const auto decoding = code.decoding(subset);
        std::vector<uint32_t> decoded(kSize);
        for (size_t k = 0; k < static_cast<size_t>(inputs); ++k) {
          combine(field, decoding[k], some, decoded);
          for (size_t i = 0; i < kSize; ++i) ASSERT_EQ(decoded[i], field.mul(rows[k][i], factor));
        }
      });
    }
  }
}

TEST(Coding, ImpossibleNumbersAreUsageErrors) {
  const Field field(11);
  EXPECT_THROW(LagrangeCode(field, 0, 1, 2), Error);
  EXPECT_THROW(LagrangeCode(field, 1, -1, 2), Error);
  EXPECT_THROW(LagrangeCode(field, 2, 1, 2), Error);   // fewer shares than decode
  EXPECT_THROW(LagrangeCode(field, 2, 1, 10), Error);  // more points than elements
  EXPECT_THROW(LagrangeCode(field, 1, 1, 3).decoding(std::vector<int>{0}), Error);
}

}  // namespace
}  // namespace ens
