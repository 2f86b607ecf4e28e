// SPDX-License-Identifier: Apache-2.0
#include "proto/tensor_codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

wire::TensorInfo info_of(wire::DType dtype, std::vector<int64_t> shape) {
  wire::TensorInfo info;
  info.set_dtype(dtype);
  for (int64_t size : shape) info.add_shape(size);
  return info;
}

TEST(TensorCodec, AcceptsWhatDescribeSays) {
  for (const char* wire : {"float32", "float16", "int8"}) {
    const Tensor tensor = Tensor::full({2, 3, 4, 5}, 0.5f);
    const Encoded encoded = encode(tensor, parse_wire_dtype(wire));
    Shape shape;
    Dtype dtype;
    const Status status = check_tensor(encoded.info, encoded.frame.bytes(), 4, 5, shape, dtype);
    EXPECT_TRUE(status.ok()) << status.str();
    EXPECT_EQ(shape, tensor.shape());
    EXPECT_EQ(dtype, encoded.frame.dtype());
    Tensor back = Tensor::empty(shape);
    decode(encoded.info, encoded.frame.raw(), back);
    EXPECT_EQ(back.to_vector(), tensor.to_vector()) << wire;  // 0.5 is exact in all of them
  }
  EXPECT_THROW(encode(Tensor::empty({2}, Dtype::kI32), wire::FLOAT32), Error);
  EXPECT_THROW(encode(Tensor::full({2}, 1.0f), wire::INT8), Error);  // no channels
  EXPECT_THROW(parse_wire_dtype("bfloat16"), Error);
}

// Outputs [N, B, ...]: a net with large elements must not coarsen another one's.
TEST(TensorCodec, Int8IsWithinHalfAStepInEveryRow) {
  Tensor values = Tensor::empty({2, 3, 20});
  Rng(1).fill_uniform(values.span<float>(), -1, 1);
  const float sizes[] = {1, 1000, 1e-6f, 5, 0, 1e4f};
  const auto row = [](int64_t i) { return static_cast<size_t>(i / 20); };
  for (int64_t i = 0; i < values.numel(); ++i) values.data<float>()[i] *= sizes[row(i)];
  const Encoded encoded = encode(values, wire::INT8, Scales::kRows);
  Shape shape;
  Dtype dtype;
  const auto check = [&](Scales scales) {
    return check_tensor(encoded.info, encoded.frame.bytes(), 3, 20, shape, dtype, scales);
  };
  ASSERT_TRUE(check(Scales::kRows).ok());
  EXPECT_EQ(shape, values.shape());
  EXPECT_FALSE(check(Scales::kChannels).ok());
  Tensor back = Tensor::empty(shape);
  decode(encoded.info, encoded.frame.raw(), back, Scales::kRows);
  for (int64_t i = 0; i < values.numel(); ++i) {
    EXPECT_NEAR(back.data<float>()[i], values.data<float>()[i], 1.01f * sizes[row(i)] / 255);
  }
}

TEST(TensorCodec, Int8IsWithinHalfAStepInEveryChannel) {
  Tensor values = Tensor::empty({3, 4, 5, 7});
  Rng(1).fill_uniform(values.span<float>(), -1, 1);
  const float sizes[] = {1, 1000, 1e-6f, 0};  // of the channels
  const float levels[] = {0, -5, 3, 7.25f};
  const auto channel = [](int64_t i) { return static_cast<size_t>(i / 35 % 4); };
  for (int64_t i = 0; i < values.numel(); ++i) {
    float& v = values.data<float>()[i];
    v = levels[channel(i)] + sizes[channel(i)] * v;
  }
  const Encoded encoded = encode(values, wire::INT8);
  EXPECT_EQ(encoded.frame.bytes(), static_cast<size_t>(values.numel()));
  Tensor back = Tensor::empty(values.shape());
  decode(encoded.info, encoded.frame.raw(), back);
  double power[4] = {}, error[4] = {};
  for (int64_t i = 0; i < values.numel(); ++i) {
    const size_t c = channel(i);
    const double e = std::abs(double{back.data<float>()[i]} - values.data<float>()[i]);
    error[c] = std::max(error[c], e);
    power[c] = std::max(power[c], std::abs(double{values.data<float>()[i]}));
  }
  for (size_t c = 0; c < 4; ++c) {
    const double range = 2.0 * sizes[c];
    EXPECT_LE(error[c], range / 255 / 2 * 1.01 + power[c] * 1e-6) << "channel " << c;
  }
  // The extremes of a channel come back as they were, and the largest numbers do not overflow.
  const float most = std::numeric_limits<float>::max();
  const Tensor extreme = Tensor::from({-most, 0.0f, most, most}, {1, 2, 1, 2});
  const Encoded wide = encode(extreme, wire::INT8);
  Tensor again = Tensor::empty(extreme.shape());
  decode(wide.info, wide.frame.raw(), again);
  EXPECT_EQ(again.data<float>()[0], -most);
  EXPECT_NEAR(again.data<float>()[2] / most, 1, 1e-5);
}

TEST(TensorCodec, MultiplesOfAStepTravelExactlyInOneByte) {
  constexpr float kStep = 0.0787f;
  Tensor values = Tensor::empty({2, 4, 32});
  for (int64_t i = 0; i < values.numel(); ++i) {
    values.data<float>()[i] = kStep * static_cast<float>(i % 255 - 127);
  }
  const Encoded encoded = encode_steps(values, kStep);
  EXPECT_EQ(encoded.frame.bytes(), 256u);
  Shape shape;
  Dtype dtype;
  ASSERT_TRUE(check_tensor(encoded.info, 256, 3, 100, shape, dtype).ok());
  Tensor back = Tensor::empty(shape);
  decode(encoded.info, encoded.frame.host(), back);
  for (int64_t i = 0; i < values.numel(); ++i) {
    EXPECT_NEAR(back.data<float>()[i], values.data<float>()[i], 2e-6) << i;
  }
  // Scale and offset do not depend on the values.
  EXPECT_EQ(encode_steps(Tensor::zeros({2, 4, 32}), kStep).info.SerializeAsString(),
            encoded.info.SerializeAsString());
}

TEST(TensorCodec, ScalesAreAsManyAsTheDtypeWants) {
  const auto check = [](const wire::TensorInfo& info) {
    Shape shape;
    Dtype dtype;
    return check_tensor(info, 12, 2, 8, shape, dtype).code;
  };
  wire::TensorInfo info = encode(Tensor::full({4, 3}, 1.0f), wire::INT8).info;
  EXPECT_EQ(check(info), StatusCode::kOk);
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    wire::TensorInfo broken = info;
    broken.set_scale(1, bad);
    EXPECT_EQ(check(broken), StatusCode::kInvalidArgument);
    broken = info;
    broken.set_offset(2, bad);
    EXPECT_EQ(check(broken), StatusCode::kInvalidArgument);
  }
  wire::TensorInfo more = info;
  more.add_scale(1);
  EXPECT_EQ(check(more), StatusCode::kInvalidArgument);
  wire::TensorInfo none = info;
  none.clear_offset();
  EXPECT_EQ(check(none), StatusCode::kInvalidArgument);
  wire::TensorInfo idle = encode(Tensor::full({1, 3}, 1.0f), wire::FLOAT32).info;
  EXPECT_EQ(check(idle), StatusCode::kOk);
  idle.add_scale(1);
  EXPECT_EQ(check(idle), StatusCode::kInvalidArgument);
}

TEST(TensorCodec, RefusesEveryWrongClaim) {
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  struct Case {
    const char* what;
    wire::DType dtype;
    std::vector<int64_t> shape;
    size_t bytes;
    int64_t limit;
  };
  const Case cases[] = {
      {"no dtype", wire::DTYPE_UNSPECIFIED, {2, 2}, 16, 8},
      {"unknown dtype", static_cast<wire::DType>(99), {2, 2}, 16, 8},
      {"rank too small", wire::FLOAT32, {4}, 16, 8},
      {"rank too large", wire::FLOAT32, {1, 2, 2}, 16, 8},
      {"no shape", wire::FLOAT32, {}, 4, 8},
      {"zero", wire::FLOAT32, {0, 2}, 0, 8},
      {"negative", wire::FLOAT32, {-1, -4}, 16, 8},
      {"beyond the limit", wire::FLOAT32, {9, 2}, 72, 8},
      {"one byte short", wire::FLOAT32, {2, 2}, 15, 8},
      {"one byte long", wire::FLOAT32, {2, 2}, 17, 8},
      {"empty frame", wire::FLOAT32, {2, 2}, 0, 8},
      {"bytes of the other dtype", wire::FLOAT16, {2, 2}, 16, 8},
      {"2 GiB", wire::FLOAT32, {1 << 15, 1 << 14}, 16, 1 << 20},
      {"product overflows to 0", wire::FLOAT32, {int64_t{1} << 32, int64_t{1} << 32}, 0, kHuge},
      {"product overflows to 16", wire::FLOAT32, {(int64_t{1} << 62) + 1, 4}, 16, kHuge},
      {"largest numbers", wire::FLOAT32, {kHuge, kHuge}, 4, kHuge},
  };
  for (const Case& c : cases) {
    Shape shape;
    Dtype dtype;
    const Status status =
        check_tensor(info_of(c.dtype, c.shape), c.bytes, 2, c.limit, shape, dtype);
    EXPECT_EQ(status.code, StatusCode::kInvalidArgument) << c.what;
    EXPECT_FALSE(status.message.empty()) << c.what;
  }
}

TEST(TensorCodec, FindsAnyNumberThatIsNotFinite) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16}) {
    const float largest = dtype == Dtype::kF32 ? std::numeric_limits<float>::max() : 65504.0f;
    Tensor good = Tensor::from({0.0f, -0.0f, largest, -largest, 1e-7f}, {5}).to(dtype);
    EXPECT_TRUE(all_finite(good));
    for (float bad : {kInf, -kInf, std::nanf(""), -std::nanf("")}) {
      for (int at = 0; at < 37; ++at) {  // wherever a vectorised loop might lose it
        std::vector<float> values(37, 1.0f);
        values[static_cast<size_t>(at)] = bad;
        EXPECT_FALSE(all_finite(Tensor::from(values, {37}).to(dtype))) << bad << " at " << at;
      }
    }
  }
}

TEST(Status, CodesHaveNamesAndSurviveTheWire) {
  for (uint32_t code = 0; code <= 8; ++code) {
    EXPECT_EQ(static_cast<uint32_t>(code_from_wire(code)), code);
  }
  EXPECT_EQ(code_from_wire(12345), StatusCode::kInternal);
  EXPECT_EQ((Status{StatusCode::kUnavailable, "gone"}).str(), "UNAVAILABLE: gone");
  EXPECT_EQ(Status{}.str(), "OK");
}

}  // namespace
}  // namespace ens
