// SPDX-License-Identifier: Apache-2.0
// InstaHide's mixtures: the law of their weights, what their pixels and labels add up to, and what
// is refused.
#include "disguise/transform/instahide.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "nn/core/rng.h"
#include "tests/support/errors.h"

namespace ens {
namespace {

using test::error_of;

const ImageShape kImage{2, 5, 6};

MixingPool pool(int64_t count, uint64_t seed) {
  MixingPool out;
  out.images = Tensor::empty({count, 2, 5, 6}, Dtype::kU8);
  Rng rng(seed);
  for (int64_t i = 0; i < out.images.numel(); ++i)
    out.images.data<uint8_t>()[i] = static_cast<uint8_t>(rng.below(256));
  out.mean = {100, 140};
  out.stddev = {50, 70};
  return out;
}

double normalised(const MixingPool& p, int64_t image, int64_t at) {
  const auto c = static_cast<size_t>(at / 30);
  return (p.images.data<uint8_t>()[image * 60 + at] - double{p.mean[c]}) / p.stddev[c];
}

TEST(Instahide, WeightsHaveTheirLaw) {
  SecretRng rng(Seed{4});
  constexpr int kDraws = 20000;
  for (const bool cross : {false, true}) {
    const int k = cross ? 6 : 4;
    double first = 0, last = 0, square = 0;
    for (int i = 0; i < kDraws; ++i) {
      const std::vector<double> w = instahide_weights(k, cross, rng);
      double sum = 0;
      for (const double v : w) {
        ASSERT_GE(v, 0);
        ASSERT_LE(v, 0.65);
        sum += v;
      }
      ASSERT_NEAR(sum, 1, 1e-12);
      if (cross) ASSERT_GE(w[0] + w[1], 0.3);
      first += w.front() / kDraws, last += w.back() / kDraws, square += w[0] * w[0] / kDraws;
    }
    if (cross) {
      EXPECT_GT(first, last + 0.01) << "small private parts are drawn again";
      continue;
    }
    EXPECT_NEAR(first, 0.25, 0.005);
    EXPECT_NEAR(last, 0.25, 0.005);
    // By simple rejection, drawn here with another generator.
    Rng other(9);
    double wanted = 0;
    int kept = 0;
    while (kept < kDraws) {
      double w[4], sum = 0;
      for (double& v : w) sum += v = std::abs(other.normal());
      if (*std::max_element(w, w + 4) > 0.65 * sum) continue;
      wanted += w[0] * w[0] / (sum * sum) / kDraws;
      ++kept;
    }
    EXPECT_NEAR(square, wanted, 0.003);
  }
}

// With public images, whose labels nobody has, and without.
TEST(Instahide, PixelsAndLabelsAreTheMixturesOwn) {
  for (const bool cross : {false, true}) {
    InstahideParameters p;
    p.k = cross ? 3 : 2;
    p.own = pool(4, 1);
    if (cross) p.others = pool(1, 2);
    const std::vector<int32_t> labels{0, 1, 2, 3};  // a class an image: the labels are the weights
    FreshRandomness fresh;
    const std::vector<int64_t> first{2, 0, 3, 1, 2, 2};
    const Encodings e = instahide_encode(kImage, p, first, labels, 4, fresh);
    int64_t negative = 0;
    for (int64_t row = 0; row < 6; ++row) {
      const float* share = e.labels.data<float>() + row * 4;
      const double sum = share[0] + share[1] + share[2] + share[3];
      if (cross) {
        EXPECT_LT(sum, 1);
        EXPECT_GE(sum, 0.3f - 1e-6);
      } else {
        EXPECT_NEAR(sum, 1, 1e-6);
      }
      EXPECT_GT(share[first[static_cast<size_t>(row)]], 0);
      EXPECT_EQ(std::count(share, share + 4, 0.0f), 2) << "two of the owner's images";
      for (int64_t at = 0; at < 60; ++at) {
        double wanted = cross ? (1 - sum) * normalised(p.others, 0, at) : 0;
        for (int64_t i = 0; i < 4; ++i) wanted += share[i] * normalised(p.own, i, at);
        const float got = e.rows.data<float>()[row * 60 + at];
        ASSERT_NEAR(std::abs(got), std::abs(wanted), 1e-5);
        negative += got * wanted < 0;
      }
    }
    EXPECT_NEAR(static_cast<double>(negative), 180, 5 * std::sqrt(90.0)) << "signs are fair coins";
  }
}

TEST(Instahide, EncodingsOfAnImageHaveOthersInThem) {
  InstahideParameters p;
  p.own = pool(200, 1);
  std::vector<int32_t> labels(200);
  for (int32_t i = 0; i < 200; ++i) labels[static_cast<size_t>(i)] = i;
  FreshRandomness fresh;
  const Encodings e = instahide_encode(kImage, p, std::vector<int64_t>(50, 7), labels, 200, fresh);
  std::set<int64_t> partners;
  for (int64_t row = 0; row < 50; ++row) {
    int64_t parts = 0;
    for (int64_t i = 0; i < 200; ++i) {
      if (e.labels.data<float>()[row * 200 + i] == 0) continue;
      ++parts;
      partners.insert(i);
    }
    EXPECT_EQ(parts, 4);
  }
  EXPECT_GT(partners.size(), 80u);
}

TEST(Instahide, QueriesAreMixedOrPlain) {
  InstahideParameters p;
  p.own = pool(10, 1);
  const Tensor image = Tensor::full({1, 2, 5, 6}, 150);
  FreshRandomness fresh;
  const auto mixed = instahide_transform(kImage, p);
  EXPECT_NE(mixed->apply(image, fresh).to_vector(), mixed->apply(image, fresh).to_vector());
  p.plain = true;
  const Tensor plain = instahide_transform(kImage, p)->apply(image, fresh);
  EXPECT_FLOAT_EQ(plain.data<float>()[0], 1);
  EXPECT_FLOAT_EQ(plain.data<float>()[59], 10 / 70.0f);
}

TEST(Instahide, ImpossibleParametersAreRefused) {
  const auto error = [](auto change) {
    InstahideParameters p;
    p.own = pool(4, 1);
    change(p);
    return error_of([&] { instahide_transform(kImage, p); });
  };
  EXPECT_NE(error([](auto& p) { p.k = 1; }).find("hides nothing"), std::string::npos);
  EXPECT_NE(error([](auto& p) {
              p.k = 2;
              p.others = pool(4, 2);
            }).find("hides nothing"),
            std::string::npos);
  EXPECT_NE(error([](auto& p) { p.k = 5; }).find("there are 4"), std::string::npos);
  EXPECT_NE(error([](auto& p) {
              p.k = 6;
              p.others = pool(3, 2);
            }).find("4 public images"),
            std::string::npos);
  EXPECT_NE(error([](auto& p) { p.own.stddev = {0, 1}; }).find("does not fit"), std::string::npos);
  EXPECT_NE(error([](auto& p) { p.own.mean = {0}; }).find("does not fit"), std::string::npos);
  EXPECT_NE(error([](auto& p) {
              p.own.images = Tensor::zeros({4, 2, 5, 5}, Dtype::kU8);
            }).find("does not fit"),
            std::string::npos);
}

}  // namespace
}  // namespace ens
