#include "offload/schemes/schemes.h"

#include <gtest/gtest.h>

#include <random>

#include "base/error.h"
#include "nn/core/int8_layer.h"
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
  Tensor reply = Tensor::empty(out, scheme.blinded() ? Dtype::kI8 : Dtype::kI32);
  if (!scheme.blinded()) {
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
  const auto encoding = scheme->encode(x);
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
    const Tensor y = encoding->decode(subset, some, output);
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

INSTANTIATE_TEST_SUITE_P(Layers, SchemesTest, testing::ValuesIn(kCases),
                         [](const auto& test) { return test.param.name; });

TEST(DarKnightField, SendsItsNoisesAsSeedsAndClaimsT) {
  const auto scheme =
      make_scheme("darknight_field", {.virtual_batch = 2, .noises = 2, .shares = 6});
  EXPECT_EQ(scheme->claims().collusion, 2);
  EXPECT_EQ(scheme->needed(), 4);
  const auto encoding = scheme->encode(Tensor::zeros({3, 4}, Dtype::kU8));
  EXPECT_EQ(encoding->groups(), 2);
  for (int j = 0; j < 6; ++j) EXPECT_EQ(encoding->share(j).seed.has_value(), j < scheme->seeds());
  // Another encoding of the same input has other noise.
  const auto again = scheme->encode(Tensor::zeros({3, 4}, Dtype::kU8));
  EXPECT_NE(*encoding->share(0).seed, *again->share(0).seed);
}

TEST(DarKnightField, ClaimsNothingForClearAndRefusesNoNoise) {
  EXPECT_EQ(make_scheme("clear", {})->claims().collusion, 0);
  EXPECT_THROW(make_scheme("darknight_field", {.noises = 0, .shares = 2}), Error);
  EXPECT_THROW(make_scheme("rot13", {}), Error);
}

}  // namespace
}  // namespace ens
