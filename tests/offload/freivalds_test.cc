// SPDX-License-Identifier: Apache-2.0
#include "offload/core/freivalds.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <set>

#include "nn/core/int8_layer.h"
#include "offload/schemes/secure_stream.h"
#include "tests/support/naive.h"

namespace ens {
namespace {

struct Case {
  std::string name;
  Shape weight, input;
  ConvSpec spec;
};

const std::vector<Case> kCases = {
    {"conv", {6, 4, 3, 3}, {4, 7, 5}, {.stride = 1, .padding = 1}},
    {"strided", {5, 3, 3, 3}, {3, 8, 9}, {.stride = 2, .padding = 1}},
    {"shortcut", {6, 4, 1, 1}, {4, 7, 7}, {.stride = 2}},
    {"grouped", {6, 2, 3, 3}, {4, 5, 6}, {.padding = 2, .dilation = 2, .groups = 2}},
    {"depthwise", {4, 1, 5, 5}, {4, 6, 6}, {.padding = 2, .groups = 4}},
    {"product", {10, 17}, {17}, {}},
};

// f(W, x) of residues in plain loops, modulo p.
std::vector<uint32_t> naive_product(const Field& field, const Int8Layer& layer,
                                    const std::vector<uint32_t>& x, const Shape& in,
                                    int64_t count) {
  const Shape out = output_shape(layer, in);
  const bool conv = in.rank() == 3;
  const ConvSpec s = conv ? layer.conv : ConvSpec{};
  const int64_t H = conv ? in[1] : 1, W = conv ? in[2] : 1, oh = conv ? out[1] : 1,
                ow = conv ? out[2] : 1;
  const int64_t kh = conv ? layer.weight.dim(2) : 1, kw = conv ? layer.weight.dim(3) : 1;
  const int64_t per_group = layer.weight.dim(1), outs = layer.weight.dim(0);
  const int8_t* w = layer.weight.data<int8_t>();
  std::vector<uint32_t> y;
  for (int64_t n = 0; n < count; ++n) {
    for (int64_t o = 0; o < outs; ++o) {
      const int64_t first = o / (outs / s.groups) * per_group;
      for (int64_t i = 0; i < oh; ++i) {
        for (int64_t j = 0; j < ow; ++j) {
          __int128 sum = 0;
          for (int64_t c = 0; c < per_group; ++c) {
            for (int64_t a = 0; a < kh; ++a) {
              for (int64_t b = 0; b < kw; ++b) {
                const int64_t yy = i * s.stride + a * s.dilation - s.padding,
                              xx = j * s.stride + b * s.dilation - s.padding;
                if (yy < 0 || yy >= H || xx < 0 || xx >= W) continue;
                sum += __int128{w[((o * per_group + c) * kh + a) * kw + b]} *
                       x[static_cast<size_t>(((n * in[0] + first + c) * H + yy) * W + xx)];
              }
            }
          }
          const __int128 p = field.prime();
          y.push_back(static_cast<uint32_t>((sum % p + p) % p));
        }
      }
    }
  }
  return y;
}

class FreivaldsTest : public testing::TestWithParam<std::tuple<const char*, Case>> {
 protected:
  FreivaldsTest() {
    layer_ = {Tensor::empty(case_.weight, Dtype::kI8), case_.spec};
    for (int8_t& v : layer_.weight.span<int8_t>())
      v = static_cast<int8_t>(static_cast<int>(random_() % 255) - 127);
    x_.resize(static_cast<size_t>(kCount * case_.input.numel()));
    for (uint32_t& v : x_) v = static_cast<uint32_t>(random_() % field_.prime());
    y_ = naive_product(field_, layer_, x_, case_.input, kCount);
    output_ = output_shape(layer_, case_.input);
  }

  static constexpr int64_t kCount = 2;
  const Case case_ = std::get<1>(GetParam());
  const Field field_ = Field::named(std::get<0>(GetParam()));
  std::mt19937_64 random_{5};
  Int8Layer layer_;
  std::vector<uint32_t> x_, y_;
  Shape output_;
  SecureStream secrets_;
};

TEST_P(FreivaldsTest, AcceptsTheRightProductAndNoOther) {
  const int repetitions = field_.planes() == 4 ? 1 : 2;
  const auto check = field_check(field_, layer_.weight, layer_.conv, repetitions);
  check->redraw(secrets_.next());
  const auto accepts = [&](const std::vector<uint32_t>& y) {
    return check->check(x_, case_.input, y, output_, kCount);
  };
  ASSERT_TRUE(accepts(y_));
  // One element; two of which a constant secret would not tell (+1 and -1 on two channels); a whole
  // plane of digits; the outputs of another W'.
  const size_t map = static_cast<size_t>(output_.numel() / output_[0]);
  for (int i = 0; i < 4000; ++i) {
    auto y = y_;
    const size_t at = random_() % y.size();
    switch (i % 4) {
      case 0:
        y[at] = field_.add(y[at], static_cast<uint32_t>(1 + random_() % (field_.prime() - 1)));
        break;
      case 1:
        y[at] = field_.add(y[at], 1);
        y[(at + map) % y.size()] = field_.sub(y[(at + map) % y.size()], 1);
        break;
      case 2: {
        const auto shift = static_cast<uint32_t>((1 + random_() % 255) << (8 * (random_() % 3)));
        for (uint32_t& v : y) v = field_.add(v, shift);
        break;
      }
      case 3: {
        Int8Layer other{layer_.weight.clone(), layer_.conv};
        int8_t& w =
            other.weight.span<int8_t>()[random_() % static_cast<size_t>(other.weight.numel())];
        w = static_cast<int8_t>(w > 0 ? w - 1 : w + 1);
        if (i % 64 != 3) continue;  // slow
        y = naive_product(field_, other, x_, case_.input, kCount);
        if (y == y_) continue;  // a weight that meets padding only
        break;
      }
    }
    if (i % 100 == 0) check->redraw(secrets_.next());
    ASSERT_FALSE(accepts(y)) << "error " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Layers, FreivaldsTest,
                         testing::Combine(testing::Values("m31", "p24"), testing::ValuesIn(kCases)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param)) + "_" +
                                  std::get<1>(test.param).name;
                         });

// 10^5 wrong products of one layer, a new secret for every tenth; none is accepted, where 10^5 / p
// are expected: 5e-5.
TEST(Freivalds, AcceptsNoneOfAHundredThousandErrors) {
  const Field field = Field::named("m31");
  std::mt19937_64 random(9);
  Int8Layer layer{Tensor::empty({8, 3, 3, 3}, Dtype::kI8), {.padding = 1}};
  for (int8_t& v : layer.weight.span<int8_t>())
    v = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
  const Shape input{3, 4, 4};
  std::vector<uint32_t> x(static_cast<size_t>(input.numel()));
  for (uint32_t& v : x) v = static_cast<uint32_t>(random() % field.prime());
  const auto y = naive_product(field, layer, x, input, 1);
  const Shape output = output_shape(layer, input);
  SecureStream secrets;
  const auto check = field_check(field, layer.weight, layer.conv, 1);
  int64_t accepted = 0;
  for (int i = 0; i < 100000; ++i) {
    if (i % 10 == 0) check->redraw(secrets.next());
    auto wrong = y;
    for (uint64_t n = 1 + random() % 3; n > 0; --n) {
      uint32_t& v = wrong[random() % wrong.size()];
      v = field.add(v, static_cast<uint32_t>(1 + random() % (field.prime() - 1)));
    }
    if (wrong == y) continue;
    accepted += check->check(x, input, wrong, output, 1);
  }
  EXPECT_EQ(accepted, 0);
}

// Of float32: what any order of the sums gives passes, also under the paper's largest noise; what a
// worker with TF32's 11 bits returns, or one with another weight, does not.
TEST(RealCheck, AcceptsRoundingAndNeitherTf32NorAnotherWeight) {
  std::mt19937_64 random(11);
  Int8Layer layer{Tensor::empty({8, 16, 3, 3}, Dtype::kI8), {.stride = 2, .padding = 1}};
  for (int8_t& v : layer.weight.span<int8_t>())
    v = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
  const Shape input{16, 9, 9}, output = output_shape(layer, input);
  for (const auto& [mean, stddev] : {std::pair{0.0, 1.0}, {4000.0, 63.25}, {10000.0, 10000.0}}) {
    SCOPED_TRACE(mean);
    std::normal_distribution<double> noise(mean, stddev);
    Tensor x = Tensor::empty(batched(2, input));
    for (float& v : x.span<float>())
      v = static_cast<float>(noise(random) + static_cast<double>(random() % 256));
    const auto tf32 = [](const Tensor& t) {
      Tensor out = t.clone();
      for (float& v : out.span<float>())
        v = std::bit_cast<float>((std::bit_cast<uint32_t>(v) + 0x1000u) & ~0x1fffu);
      return out;
    };
    const auto bits = [](const Tensor& t) {
      const Tensor plain = t.plain();
      std::vector<uint32_t> out;
      for (const float v : plain.span<float>()) out.push_back(std::bit_cast<uint32_t>(v));
      return out;
    };
    const naive::Array a(x), w(layer.weight.to(Dtype::kF32));
    std::vector<uint32_t> exact;
    for (const double v : naive::conv2d(a, w, {}, layer.conv).v)
      exact.push_back(std::bit_cast<uint32_t>(static_cast<float>(v)));
    Int8Layer other{layer.weight.clone(), layer.conv};
    other.weight.span<int8_t>()[5 * 9 + 4] ^= 0x20;
    SecureStream secrets;
    const auto check = real_check(layer.weight, layer.conv);
    for (int i = 0; i < 20; ++i) {
      check->redraw(secrets.next());
      const auto accepts = [&](const std::vector<uint32_t>& y) {
        return check->check(bits(x), input, y, output, 2);
      };
      EXPECT_TRUE(accepts(exact));
      EXPECT_TRUE(accepts(bits(multiply(layer, x))));
      EXPECT_FALSE(accepts(bits(multiply(layer, tf32(x)))));
      EXPECT_FALSE(accepts(bits(multiply(other, x))));
      auto nan = exact;
      nan[7] = std::bit_cast<uint32_t>(std::nanf(""));
      EXPECT_FALSE(accepts(nan));
    }
  }
}

TEST(SecureStream, NeverGivesASeedTwice) {
  SecureStream one, other;
  std::set<Seed> seen;
  for (int i = 0; i < 20000; ++i) {
    ASSERT_TRUE(seen.insert(one.next()).second);
    ASSERT_TRUE(seen.insert(other.next()).second);
  }
}

}  // namespace
}  // namespace ens
