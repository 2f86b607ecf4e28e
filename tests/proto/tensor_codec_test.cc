#include "proto/tensor_codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "nn/core/error.h"

namespace ens {
namespace {

wire::TensorInfo info_of(wire::DType dtype, std::vector<int64_t> shape) {
  wire::TensorInfo info;
  info.set_dtype(dtype);
  for (int64_t size : shape) info.add_shape(size);
  return info;
}

TEST(TensorCodec, AcceptsWhatDescribeSays) {
  for (Dtype wanted : {Dtype::kF32, Dtype::kF16}) {
    const Tensor tensor = Tensor::empty({2, 3, 4, 5}, wanted);
    Shape shape;
    Dtype dtype;
    const Status status = check_tensor(describe(tensor), tensor.bytes(), 4, 5, shape, dtype);
    EXPECT_TRUE(status.ok()) << status.str();
    EXPECT_EQ(shape, tensor.shape());
    EXPECT_EQ(dtype, wanted);
  }
  EXPECT_THROW(describe(Tensor::empty({2}, Dtype::kI32)), Error);
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
