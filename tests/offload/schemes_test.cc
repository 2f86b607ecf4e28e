// SPDX-License-Identifier: Apache-2.0
#include "offload/schemes/schemes.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "base/error.h"
#include "nn/core/int8_layer.h"
#include "offload/core/coding.h"
#include "offload/core/freivalds.h"
#include "offload/core/nonces.h"
#include "tests/offload/uniform.h"
#include "tests/support/naive.h"

namespace ens {
namespace {

struct Case {
  std::string name;
  Shape weight, input;
  ConvSpec spec;
  Dtype dtype;
};

const std::vector<Case> kCases = {
    {"conv_u8", {8, 4, 3, 3}, {4, 6, 5}, {.padding = 1}, Dtype::kU8},
    {"strided_s8", {5, 3, 3, 3}, {3, 9, 8}, {.stride = 2, .padding = 1}, Dtype::kI8},
    {"grouped_u8", {6, 2, 3, 3}, {4, 5, 6}, {.stride = 2, .padding = 1, .groups = 2}, Dtype::kU8},
    {"product_u8", {10, 33}, {33}, {}, Dtype::kU8},
};

Tensor random_integers(const Shape& shape, Dtype dtype, std::mt19937_64& random) {
  Tensor t = Tensor::empty(shape, dtype);
  if (dtype == Dtype::kU8) {
    for (uint8_t& v : t.span<uint8_t>()) v = static_cast<uint8_t>(random());
  } else {
    for (int8_t& v : t.span<int8_t>())
      v = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
  }
  return t;
}

std::vector<int32_t> naive_product(const Int8Layer& layer, const Tensor& x) {
  const naive::Array a(x.to(Dtype::kF32)), w(layer.weight.to(Dtype::kF32));
  const naive::Array y =
      layer.weight.rank() == 2 ? naive::linear(a, w, {}) : naive::conv2d(a, w, {}, layer.conv);
  return {y.v.begin(), y.v.end()};
}

// What a worker does with a frame, by the plainest means: a product for each plane, in double, and
// digits again.
Tensor work(const Scheme& scheme, const Int8Layer& layer, const Tensor& frame) {
  const Shape one(frame.shape().dims().subspan(2));
  const Tensor x = frame.reshape(batched(frame.dim(0) * frame.dim(1), one));
  const std::vector<int32_t> y = naive_product(layer, x);
  const Shape out = batched(frame.dim(0), batched(frame.dim(1), output_shape(layer, one)));
  Tensor reply = Tensor::empty(out, product_dtype(scheme.numbers()));
  if (scheme.numbers() == ShareNumbers::kIntegers) {
    std::ranges::copy(y, reply.data<int32_t>());
    return reply;
  }
  std::vector<uint32_t> residues(y.size() / static_cast<size_t>(frame.dim(0)));
  for (size_t i = 0; i < residues.size(); ++i) {
    __int128 v = 0;
    for (int64_t l = frame.dim(0) - 1; l >= 0; --l)
      v = v * 256 + y[static_cast<size_t>(l) * residues.size() + i];
    const __int128 p = scheme.field().prime();
    residues[i] = static_cast<uint32_t>((v % p + p) % p);
  }
  to_planes(scheme.field(), residues, reply.span<int8_t>());
  return reply;
}

Tensor frame_of(const Scheme& scheme, Encoding& encoding, int share, const Shape& one) {
  const Share s = encoding.share(share);
  if (!s.seed) return s.frame;
  Tensor frame =
      Tensor::empty(batched(scheme.planes(), batched(encoding.groups(), one)), Dtype::kI8);
  std::vector<uint32_t> elements(static_cast<size_t>(frame.numel()) /
                                 static_cast<size_t>(scheme.planes()));
  expand_seed(*s.seed, scheme.field(), elements);
  to_planes(scheme.field(), elements, frame.span<int8_t>());
  return frame;
}

// The integer product, bit for bit, from every subset of shares that decodes.
void expect_exact(const std::string& name, const SchemeOptions& options, const Case& c,
                  int64_t images) {
  std::mt19937_64 random(17);
  const Int8Layer layer{random_integers(c.weight, Dtype::kI8, random), c.spec};
  const Tensor x = random_integers(batched(images, c.input), c.dtype, random);
  const std::vector<int32_t> want = naive_product(layer, x);
  const Shape output = output_shape(layer, c.input);
  const auto scheme = make_scheme(name, options);
  scheme->add_group({layer}, c.input, 1);
  if (images > 1) scheme->prepare(images - 1);  // and one when it is needed
  const auto encoding = scheme->encode(0, x);
  std::vector<std::vector<uint32_t>> outputs;
  for (int j = 0; j < scheme->shares(); ++j) {
    const Tensor frame = frame_of(*scheme, *encoding, j, c.input);
    ASSERT_EQ(frame.dim(1), encoding->groups());
    outputs.emplace_back();
    ASSERT_TRUE(encoding->read(work(*scheme, layer, frame), outputs.back()));
  }
  for (int bits = 0; bits < 1 << scheme->shares(); ++bits) {
    std::vector<int> subset;
    for (int j = 0; j < scheme->shares(); ++j) {
      if (bits >> j & 1) subset.insert(subset.begin(), j);
    }
    if (static_cast<int>(subset.size()) != scheme->needed()) continue;
    std::vector<std::vector<uint32_t>> some;
    for (const int j : subset) some.push_back(outputs[static_cast<size_t>(j)]);
    const Tensor y = encoding->decode(0, subset, some, output);
    ASSERT_EQ(y.shape(), batched(images, output));
    const auto got = y.span<int32_t>();
    ASSERT_TRUE(std::equal(got.begin(), got.end(), want.begin(), want.end()))
        << name << " " << c.name << " subset " << bits;
  }
}

class SchemesTest : public testing::TestWithParam<Case> {};

TEST_P(SchemesTest, DarKnightDecodesTheIntegersBitForBitFromAnySubset) {
  for (const char* field : {"m31", "p24"}) {
    for (const auto& [k, t, s] :
         {std::tuple{1, 1, 2}, {1, 1, 4}, {2, 1, 5}, {1, 3, 5}, {4, 2, 8}}) {
      const SchemeOptions options{
          .field = Field::named(field), .virtual_batch = k, .noises = t, .shares = s};
      for (const int64_t images : {1, 2, 5})
        expect_exact("darknight_field", options, GetParam(), images);
    }
  }
}

TEST_P(SchemesTest, ClearDecodesTheIntegers) {
  expect_exact("clear", {.shares = 3}, GetParam(), 3);
}

TEST_P(SchemesTest, SlalomDecodesTheIntegersBitForBitWithMasksMadeBefore) {
  for (const char* field : {"m31", "p24"}) {
    for (const int64_t images : {1, 3, 18})
      expect_exact("slalom", {.field = Field::named(field), .shares = 2}, GetParam(), images);
  }
}

// N2 of the bars: relative to the largest output, 1e-4 with N(0, 1) noise and 2e-2 where mean and
// deviation are 1e4; and with N(0, 1) the integers themselves.
TEST_P(SchemesTest, RealSharesDecodeUpToTheRoundingOfFloat32) {
  const Case& c = GetParam();
  std::mt19937_64 random(17);
  const Int8Layer layer{random_integers(c.weight, Dtype::kI8, random), c.spec};
  for (const auto& [k, t] : {std::pair{1, 1}, {4, 1}, {2, 2}}) {
    const int64_t images = 5;
    const Tensor x = random_integers(batched(images, c.input), c.dtype, random);
    const std::vector<int32_t> want = naive_product(layer, x);
    double largest = 0;
    for (const int32_t v : want) largest = std::max(largest, std::abs(static_cast<double>(v)));
    const auto error = [&](double mean, double stddev) {
      const auto scheme = make_scheme("darknight_real", {.virtual_batch = k,
                                                         .noises = t,
                                                         .shares = k + t,
                                                         .noise_mean = mean,
                                                         .noise_stddev = stddev});
      scheme->add_group({layer}, c.input, 1);
      const auto encoding = scheme->encode(0, x);
      std::vector<Elements> outputs(static_cast<size_t>(k + t));
      std::vector<int> shares;
      for (int j = k + t - 1; j >= 0; --j) {  // in another order
        const Share share = encoding->share(j);
        const Tensor frame = share.frame;
        EXPECT_EQ(frame.dtype(), Dtype::kF32);
        const Tensor y =
            multiply(layer, frame.reshape(batched(encoding->groups(), c.input))).plain();
        EXPECT_TRUE(encoding->read(y.reshape(batched(1, y.shape())), outputs[shares.size()]));
        shares.push_back(j);
      }
      const Tensor y = encoding->decode(0, shares, outputs, output_shape(layer, c.input));
      double most = 0;
      for (size_t i = 0; i < want.size(); ++i)
        most = std::max(most, std::abs(double(y.span<int32_t>()[i]) - want[i]));
      return most / largest;
    };
    EXPECT_EQ(error(0, 1), 0);
    EXPECT_LT(error(1e4, 1e4), 2e-2);
  }
}

INSTANTIATE_TEST_SUITE_P(Layers, SchemesTest, testing::ValuesIn(kCases),
                         [](const auto& test) { return test.param.name; });

TEST(DarKnightField, SendsItsNoisesAsSeedsAndClaimsT) {
  const auto scheme =
      make_scheme("darknight_field", {.virtual_batch = 2, .noises = 2, .shares = 6});
  EXPECT_EQ(scheme->claims().collusion, 2);
  EXPECT_EQ(scheme->needed(), 4);
  const auto encoding = scheme->encode(0, Tensor::zeros({3, 4}, Dtype::kU8));
  EXPECT_EQ(encoding->groups(), 2);
  for (int j = 0; j < 6; ++j) EXPECT_EQ(encoding->share(j).seed.has_value(), j < scheme->seeds());
  // Another encoding of the same input has other noise.
  const auto again = scheme->encode(0, Tensor::zeros({3, 4}, Dtype::kU8));
  EXPECT_NE(*encoding->share(0).seed, *again->share(0).seed);
}

// Two inputs under one mask would differ by exactly what the images differ by.
TEST(Slalom, NeverUsesAMaskForASecondInput) {
  const auto scheme = make_scheme("slalom", {.shares = 2});
  scheme->add_group({{Tensor::full({2, 4}, 1, Dtype::kI8), {}}}, {4}, 1);
  scheme->prepare(3);
  std::set<std::vector<uint32_t>> seen;
  for (int i = 0; i < 4; ++i) {
    const auto encoding = scheme->encode(0, Tensor::zeros({2, 4}, Dtype::kU8));
    const auto all = encoding->elements(0);
    for (size_t b = 0; b < 2; ++b)
      seen.emplace(all.begin() + static_cast<ptrdiff_t>(4 * b),
                   all.begin() + static_cast<ptrdiff_t>(4 * b + 4));
  }
  EXPECT_EQ(seen.size(), 8u);
  EXPECT_EQ(scheme->claims().collusion, scheme->shares());
}

TEST(Nonces, ASecondUseIsFound) {
  watch_nonces(true);
  const Seed seed{1}, other{2};
  use_nonce(seed);
  use_nonce(other);
  use_nonce(seed, 1);
  EXPECT_THROW(use_nonce(seed), Error);
  EXPECT_THROW(use_nonce(seed, 1), Error);
  // Through the check of products: the same secret vector for a second time.
  const auto check = field_check(Field::named("m31"), Tensor::full({2, 4}, 1, Dtype::kI8), {}, 1);
  check->redraw(Seed{3});
  EXPECT_THROW(check->redraw(Seed{3}), Error);
  // What the schemes draw of their own is never used twice.
  for (const char* name : {"slalom", "darknight_field"}) {
    const auto scheme = make_scheme(name, {.shares = 2});
    scheme->add_group({{Tensor::full({2, 4}, 1, Dtype::kI8), {}}}, {4}, 1);
    for (int i = 0; i < 300; ++i) scheme->encode(0, Tensor::zeros({1, 4}, Dtype::kU8));
  }
  watch_nonces(false);
  use_nonce(seed);
}

// What any two workers see of constant, black, white and random images under two noises: uniform in
// the top and the bottom bits, in pairs of neighbours, and in pairs of what both see. 10^7
// residues.
TEST(DarKnightField, SharesAreUniformWhateverTheInputs) {
  constexpr int64_t kSize = 250'000;
  std::mt19937_64 random(5);
  std::vector<double> p_values[5];
  int64_t seen = 0;
  for (int run = 0; run < 20; ++run) {
    const auto scheme = make_scheme("darknight_field", {.noises = 2, .shares = 4});
    Tensor x = random_integers({1, kSize}, Dtype::kU8, random);
    if (run % 4 < 3) x.fill(static_cast<float>(run % 4) * 127);
    const auto encoding = scheme->encode(0, x);
    // Not those that are seeds: these are uniform by themselves.
    const auto a = encoding->elements(2), b = encoding->elements(3);
    seen += std::ssize(a) + std::ssize(b);
    std::vector<int64_t> counts[5];
    for (auto& c : counts) c.resize(256);
    for (size_t i = 0; i < a.size(); ++i) {
      ++counts[0][a[i] >> 23];
      ++counts[1][a[i] & 255];
      ++counts[2][(a[i] >> 27) * 16 + (b[i] >> 27)];
      if (i % 2 == 0) continue;
      ++counts[3][(b[i - 1] >> 27) * 16 + (b[i] >> 27)];
      ++counts[4][(b[i - 1] & 15) * 16 + (b[i] & 15)];
    }
    for (size_t k = 0; k < 5; ++k) p_values[k].push_back(test::uniform_p(counts[k]));
  }
  EXPECT_GE(seen, 10'000'000);
  for (const auto& p : p_values) EXPECT_GT(test::ks_p(p), 1e-3);
  // Three of four shares fix the image: the sum that decodes it is not uniform at all.
  const auto scheme = make_scheme("darknight_field", {.noises = 2, .shares = 4});
  const auto encoding = scheme->encode(0, Tensor::zeros({1, 10'000}, Dtype::kU8));
  const LagrangeCode code(Field::named("m31"), 1, 2, 4);
  const std::vector<int> three = {1, 2, 3};
  std::vector<std::span<const uint32_t>> rows;
  for (const int j : three) rows.push_back(encoding->elements(j));
  std::vector<uint32_t> sum(10'000);
  combine(code.field(), code.decoding(three)[0], rows, sum);
  std::vector<int64_t> counts(256);
  for (const uint32_t v : sum) ++counts[v & 255];
  EXPECT_LT(test::uniform_p(counts), 1e-9);
}

TEST(DarKnightReal, DrawsAMatrixForEveryVirtualBatchAndClaimsNothing) {
  const auto scheme = make_scheme("darknight_real", {.virtual_batch = 2, .noises = 1, .shares = 9});
  EXPECT_EQ(scheme->claims().collusion, 0);
  EXPECT_EQ(scheme->shares(), 3);
  scheme->add_group({}, {6}, 0.5f);
  const Tensor x = Tensor::full({4, 6}, 100, Dtype::kU8);
  std::set<uint32_t> seen;
  for (int i = 0; i < 2; ++i) {
    const auto encoding = scheme->encode(0, x);
    ASSERT_EQ(encoding->groups(), 2);
    for (const uint32_t v : encoding->elements(1)) seen.insert(v);
  }
  EXPECT_EQ(seen.size(), 24u);
  EXPECT_THROW(make_scheme("darknight_real", {.noises = 0, .shares = 2}), Error);
}

TEST(DarKnightField, ClaimsNothingForClearAndRefusesNoNoise) {
  EXPECT_EQ(make_scheme("clear", {})->claims().collusion, 0);
  EXPECT_THROW(make_scheme("darknight_field", {.noises = 0, .shares = 2}), Error);
  EXPECT_THROW(make_scheme("rot13", {}), Error);
}

}  // namespace
}  // namespace ens
