#include "proto/tensor_codec.h"

#include <bit>
#include <cstddef>
#include <cstring>

#include "nn/core/error.h"

// Tensors travel as they lie in memory.
static_assert(std::endian::native == std::endian::little, "the wire is little endian");

namespace ens {

wire::TensorInfo describe(const Tensor& tensor) {
  wire::TensorInfo info;
  switch (tensor.dtype()) {
    case Dtype::kF32:
      info.set_dtype(wire::FLOAT32);
      break;
    case Dtype::kF16:
      info.set_dtype(wire::FLOAT16);
      break;
    default:
      fail(std::string(name(tensor.dtype())) + " does not travel", "wire", "use float32");
  }
  if (tensor.layout() != Layout::kPlain) fail("only plain tensors travel", "wire");
  for (int64_t size : tensor.shape().dims()) info.add_shape(size);
  return info;
}

Status check_tensor(const wire::TensorInfo& info, size_t frame_bytes, int rank, int64_t limit,
                    Shape& shape, Dtype& dtype) {
  const auto bad = [](std::string message) {
    return Status{StatusCode::kInvalidArgument, std::move(message)};
  };
  switch (info.dtype()) {
    case wire::FLOAT32:
      dtype = Dtype::kF32;
      break;
    case wire::FLOAT16:
      dtype = Dtype::kF16;
      break;
    default:
      return bad("unknown tensor dtype " + std::to_string(info.dtype()));
  }
  if (info.shape_size() != rank) {
    return bad("tensor has " + std::to_string(info.shape_size()) + " dimensions, expected " +
               std::to_string(rank));
  }
  uint64_t bytes = size_of(dtype);
  for (int64_t size : info.shape()) {
    if (size < 1 || size > limit) {
      return bad("tensor dimension " + std::to_string(size) + " is not in 1 to " +
                 std::to_string(limit));
    }
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes)) {
      return bad("tensor is too large");
    }
  }
  if (bytes != frame_bytes) {
    return bad("tensor frame has " + std::to_string(frame_bytes) + " bytes, its shape needs " +
               std::to_string(bytes));
  }
  shape = Shape(std::span<const int64_t>(info.shape().data(), static_cast<size_t>(rank)));
  return {};
}

namespace {

// A float is finite unless its exponent bits are all ones; one pass without branches vectorises.
template <typename Bits>
bool finite_bits(const void* data, int64_t count, Bits exponent) {
  const auto* bytes = static_cast<const std::byte*>(data);
  Bits bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, bytes + static_cast<size_t>(i) * sizeof(Bits), sizeof(Bits));
    bad |= static_cast<Bits>((bits & exponent) == exponent);
  }
  return bad == 0;
}

}  // namespace

bool all_finite(const Tensor& tensor) {
  switch (tensor.dtype()) {
    case Dtype::kF32:
      return finite_bits<uint32_t>(tensor.raw(), tensor.numel(), 0x7f800000u);
    case Dtype::kF16:
      return finite_bits<uint16_t>(tensor.raw(), tensor.numel(), 0x7c00u);
    default:
      fail(std::string("all_finite of ") + name(tensor.dtype()));
  }
}

}  // namespace ens
