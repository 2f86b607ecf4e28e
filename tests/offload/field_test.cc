// SPDX-License-Identifier: Apache-2.0
#include "offload/core/field.h"

#include <gtest/gtest.h>

#include <random>

#include "base/error.h"
#include "nn/core/int8_product.h"
#include "offload/core/seed.h"

namespace ens {
namespace {

class FieldTest : public testing::TestWithParam<uint32_t> {
 protected:
  const Field field_{GetParam()};
  const int64_t p_ = GetParam();
  std::mt19937_64 random_{7};

  // 0, 1, p - 1, what lies around the borders of digits, and others.
  std::vector<uint32_t> elements() {
    std::vector<uint32_t> all;
    for (const int64_t v : {0L, 1L, p_ / 2 - 1, p_ / 2, p_ / 2 + 1, p_ - 1, 127L, 128L, 255L, 256L,
                            8355711L, 8355712L, 8388606L, 8388607L}) {
      if (v < p_) all.push_back(static_cast<uint32_t>(v));
    }
    for (int i = 0; i < 2000; ++i) all.push_back(static_cast<uint32_t>(random_() % GetParam()));
    return all;
  }
  uint32_t naive(__int128 v) const { return static_cast<uint32_t>((v % p_ + p_) % p_); }
};

TEST_P(FieldTest, ArithmeticIsThatOfIntegersModuloThePrime) {
  const auto all = elements();
  for (size_t i = 0; i + 1 < all.size(); ++i) {
    const uint32_t a = all[i], b = all[i + 1];
    ASSERT_EQ(field_.add(a, b), naive(__int128{a} + b));
    ASSERT_EQ(field_.sub(a, b), naive(__int128{a} - b));
    ASSERT_EQ(field_.mul(a, b), naive(__int128{a} * b));
    if (a != 0) {
      ASSERT_EQ(field_.mul(a, field_.inverse(a)), 1u);
    }
    ASSERT_EQ(naive(field_.centred(a)), a);
    ASSERT_LE(std::abs(int64_t{field_.centred(a)}), p_ / 2);
  }
}

TEST_P(FieldTest, CombineIsTheNaiveSum) {
  const auto a = elements();
  auto b = a, c = a;
  std::shuffle(b.begin(), b.end(), random_);
  std::shuffle(c.begin(), c.end(), random_);
  const std::vector<uint32_t> coefficients = {GetParam() - 1,
                                              static_cast<uint32_t>(random_() % GetParam()), 1};
  const std::vector<std::span<const uint32_t>> rows = {a, b, c};
  std::vector<uint32_t> out(a.size());
  combine(field_, coefficients, rows, out);
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(out[i], naive(__int128{coefficients[0]} * a[i] + __int128{coefficients[1]} * b[i] +
                            __int128{coefficients[2]} * c[i]));
  }
}

TEST_P(FieldTest, PlanesAreSignedDigitsAndComeBack) {
  const auto all = elements();
  std::vector<int8_t> planes(all.size() * static_cast<size_t>(field_.planes()));
  to_planes(field_, all, planes);
  for (size_t i = 0; i < all.size(); ++i) {
    __int128 v = 0, weight = 1;
    for (int l = 0; l < field_.planes(); ++l, weight *= 256)
      v += weight * planes[static_cast<size_t>(l) * all.size() + i];
    ASSERT_EQ(naive(v), all[i]);
  }
  std::vector<uint32_t> back(all.size());
  ASSERT_TRUE(from_planes(field_, planes, back));
  EXPECT_EQ(back, all);
}

// Every residue is written in one way, so that a worker cannot mark what it sends.
TEST_P(FieldTest, OtherDigitsAreRefused) {
  int64_t refused = 0, accepted = 0;
  std::vector<int8_t> planes(static_cast<size_t>(field_.planes()));
  std::vector<uint32_t> one(1);
  const auto look = [&] {
    std::vector<int8_t> again(planes.size());
    if (!from_planes(field_, planes, one)) {
      ++refused;
      return;
    }
    ++accepted;
    ASSERT_LT(one[0], GetParam());
    to_planes(field_, one, again);
    ASSERT_EQ(again, planes);
  };
  for (int i = 0; i < 100000; ++i) {
    for (int8_t& d : planes) d = static_cast<int8_t>(random_());
    look();
  }
  for (const int extreme : {-128, 127}) {
    std::ranges::fill(planes, static_cast<int8_t>(extreme));
    if (field_.planes() == 4) look();
  }
  EXPECT_GT(accepted, 0);
  if (field_.planes() != 3) {  // 2^24 digits are but for three the residues of p24
    EXPECT_GT(refused, 0);
  }
}

TEST_P(FieldTest, ProductsOfPlanesAreTheProductOfTheResidues) {
  const auto all = elements();
  const size_t n = all.size();
  std::vector<int8_t> planes(n * static_cast<size_t>(field_.planes()));
  to_planes(field_, all, planes);
  std::vector<int32_t> products(planes.size());
  // The largest sums that int32 holds, and others.
  std::vector<int64_t> weights;
  for (size_t i = 0; i < n; ++i) {
    weights.push_back(i % 3 == 0 ? 127 * kMaxTermsI8
                                 : static_cast<int64_t>(random_() % 16776000) - 8388000);
  }
  for (size_t k = 0; k < planes.size(); ++k)
    products[k] = static_cast<int32_t>(planes[k] * weights[k % n]);
  std::vector<uint32_t> out(n);
  reduce_products(field_, products, out);
  for (size_t i = 0; i < n; ++i) ASSERT_EQ(out[i], naive(__int128{all[i]} * weights[i]));
}

// By rejection: no residue is more likely. Both primes need about half of the words, or none of
// them.
TEST_P(FieldTest, SeedsMakeUniformResidues) {
  Seed seed{};
  seed[0] = 1;
  std::vector<uint32_t> out(1 << 18), again(1 << 18);
  expand_seed(seed, field_, out);
  expand_seed(seed, field_, again);
  EXPECT_EQ(out, again);
  seed[31] = 1;
  expand_seed(seed, field_, again);
  EXPECT_NE(out, again);
  const int64_t bins = std::min<int64_t>(p_, 251);
  std::vector<int64_t> count(static_cast<size_t>(bins));
  for (const uint32_t v : out) {
    ASSERT_LT(v, GetParam());
    ++count[static_cast<size_t>(int64_t{v} * bins / p_)];
  }
  double chi2 = 0;
  for (int64_t k = 0; k < bins; ++k) {
    // Residues v with floor(v * bins / p) = k.
    const int64_t first = (k * p_ + bins - 1) / bins, last = ((k + 1) * p_ + bins - 1) / bins;
    const double expected = static_cast<double>(out.size()) * static_cast<double>(last - first) /
                            static_cast<double>(p_);
    chi2 += (static_cast<double>(count[static_cast<size_t>(k)]) - expected) *
            (static_cast<double>(count[static_cast<size_t>(k)]) - expected) / expected;
  }
  EXPECT_LT(chi2,
            static_cast<double>(bins - 1) + 5 * std::sqrt(2.0 * static_cast<double>(bins - 1)));
}

INSTANTIATE_TEST_SUITE_P(Primes, FieldTest,
                         testing::Values(7u, 11u, 251u, 65521u, 16777213u, 2147483629u,
                                         2147483647u));

TEST(Field, NamesItsPrimes) {
  EXPECT_EQ(Field::named("m31").prime(), 2147483647u);
  EXPECT_EQ(Field::named("m31").planes(), 4);
  EXPECT_EQ(Field::named("p24").prime(), 16777213u);
  EXPECT_EQ(Field::named("p24").planes(), 3);
  EXPECT_THROW(Field::named("m32"), Error);
  EXPECT_THROW(Field(2), Error);
}

// RFC 8439, 2.3.2's key with block counter and nonce 0 is not in the RFC; A.1 #1 is: key 0, nonce
// 0, counter 0.
TEST(Seed, IsTheStreamOfChaCha20) {
  std::array<uint8_t, 16> out{};
  chacha20(Seed{}, out);
  EXPECT_EQ(out, (std::array<uint8_t, 16>{0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90, 0x40,
                                          0x5d, 0x6a, 0xe5, 0x53, 0x86, 0xbd, 0x28}));
}

}  // namespace
}  // namespace ens
