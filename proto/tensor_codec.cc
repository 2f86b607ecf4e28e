// SPDX-License-Identifier: Apache-2.0
#include "proto/tensor_codec.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <vector>

#include "base/error.h"

// Tensors travel as they lie in memory.
static_assert(std::endian::native == std::endian::little, "the wire is little endian");

namespace ens {

namespace {

// Values of one channel lie side by side, `positions` of them, in each of `images`.
template <typename F>
void each_channel_row(const Shape& shape, F f) {
  const int64_t images = shape[0], channels = shape[1];
  const int64_t positions = shape.numel() / (images * channels);
  for (int64_t i = 0; i < images; ++i) {
    for (int64_t c = 0; c < channels; ++c) f(c, (i * channels + c) * positions, positions);
  }
}

Encoded quantise(const Tensor& values) {
  if (values.rank() < 2) fail("int8 needs channels", "wire", "use float32");
  const Shape shape = values.shape();
  const auto channels = static_cast<size_t>(shape[1]);
  std::vector<float> low(channels, std::numeric_limits<float>::max()),
      high(channels, std::numeric_limits<float>::lowest());
  const float* from = values.data<float>();
  each_channel_row(shape, [&](int64_t c, int64_t first, int64_t count) {
    const auto [least, most] = std::minmax_element(from + first, from + first + count);
    const auto k = static_cast<size_t>(c);
    low[k] = std::min(low[k], *least);
    high[k] = std::max(high[k], *most);
  });
  Encoded out{{}, Tensor::empty(shape, Dtype::kU8)};
  out.info.set_dtype(wire::INT8);
  for (size_t c = 0; c < channels; ++c) {
    // Each by itself: the range of two finite numbers need not be finite.
    const float step = high[c] / 255 - low[c] / 255;
    out.info.add_scale(step);
    out.info.add_offset(low[c]);
  }
  uint8_t* to = out.frame.data<uint8_t>();
  each_channel_row(shape, [&](int64_t c, int64_t first, int64_t count) {
    const auto k = static_cast<int>(c);
    const float step = out.info.scale(k), offset = out.info.offset(k);
    const float per_step = step > 0 ? 1 / step : 0;
    for (int64_t i = first; i < first + count; ++i) {
      to[i] =
          static_cast<uint8_t>(std::clamp(std::lround((from[i] - offset) * per_step), 0L, 255L));
    }
  });
  return out;
}

// Rows as the channels of one image.
Tensor with_channels(const Tensor& values, Scales scales) {
  if (scales == Scales::kChannels || values.rank() < 2) return values;
  const int64_t rows = values.dim(0) * values.dim(1);
  return values.reshape({1, rows, values.numel() / rows});
}

}  // namespace

wire::DType parse_wire_dtype(const std::string& name) {
  if (name == "float32") return wire::FLOAT32;
  if (name == "float16") return wire::FLOAT16;
  if (name == "int8") return wire::INT8;
  usage_fail("'" + name + "' does not travel", "wire_dtype", "use float32, float16 or int8");
}

Encoded encode(const Tensor& values, wire::DType dtype, Scales scales) {
  if (values.dtype() != Dtype::kF32) fail(std::string(name(values.dtype())) + " to encode", "wire");
  Encoded out;
  if (dtype == wire::INT8) {
    out = quantise(with_channels(values.plain(), scales));
  } else {
    out.frame = values.plain().to(dtype == wire::FLOAT16 ? Dtype::kF16 : Dtype::kF32);
    out.info.set_dtype(dtype);
  }
  for (int64_t size : values.shape().dims()) out.info.add_shape(size);
  return out;
}

Encoded encode_steps(const Tensor& values, float step) {
  if (values.rank() < 2) fail("int8 needs channels", "wire");
  Encoded out{{}, Tensor::empty(values.shape(), Dtype::kU8)};
  std::ranges::transform(values.plain().span<float>(), out.frame.data<uint8_t>(), [&](float v) {
    return static_cast<uint8_t>(std::clamp(std::lround(v / step) + 127, 0L, 254L));
  });
  out.info.set_dtype(wire::INT8);
  for (int64_t size : values.shape().dims()) out.info.add_shape(size);
  for (int64_t c = 0; c < values.dim(1); ++c) {
    out.info.add_scale(step);
    out.info.add_offset(-127 * step);
  }
  return out;
}

void decode(const wire::TensorInfo& info, const void* bytes, Tensor values, Scales scales) {
  if (info.dtype() == wire::FLOAT32) {
    std::memcpy(values.host(), bytes, values.bytes());
  } else if (info.dtype() == wire::FLOAT16) {
    Tensor staged = Tensor::empty(values.shape(), Dtype::kF16);
    std::memcpy(staged.host(), bytes, staged.bytes());
    values.copy_from(staged);
  } else {
    const auto* from = static_cast<const uint8_t*>(bytes);
    float* to = values.data<float>();
    each_channel_row(with_channels(values, scales).shape(), [&](int64_t c, int64_t first,
                                                                int64_t count) {
      const float step = info.scale(static_cast<int>(c)), offset = info.offset(static_cast<int>(c));
      for (int64_t i = first; i < first + count; ++i) {
        to[i] = offset + step * static_cast<float>(from[i]);
      }
    });
  }
}

Status check_tensor(const wire::TensorInfo& info, size_t frame_bytes, int rank, int64_t limit,
                    Shape& shape, Dtype& dtype, Scales layout) {
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
    case wire::INT8:
      dtype = Dtype::kU8;
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
  int64_t scales = info.dtype() == wire::INT8 && rank > 1 ? info.shape(1) : 0;
  if (layout == Scales::kRows) scales *= info.shape(0);
  if (info.scale_size() != scales || info.offset_size() != scales ||
      (info.dtype() == wire::INT8 && scales == 0)) {
    return bad("tensor has " + std::to_string(info.scale_size()) + " scales and " +
               std::to_string(info.offset_size()) + " offsets, expected " + std::to_string(scales));
  }
  const auto finite = [](float v) { return std::isfinite(v); };
  if (!std::ranges::all_of(info.scale(), finite) || !std::ranges::all_of(info.offset(), finite)) {
    return bad("tensor has a scale or an offset that is not finite");
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
      return finite_bits<uint32_t>(tensor.host(), tensor.numel(), 0x7f800000u);
    case Dtype::kF16:
      return finite_bits<uint16_t>(tensor.host(), tensor.numel(), 0x7c00u);
    default:
      fail(std::string("all_finite of ") + name(tensor.dtype()));
  }
}

}  // namespace ens
