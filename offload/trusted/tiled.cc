// SPDX-License-Identifier: Apache-2.0
#include "offload/trusted/tiled.h"

#include <algorithm>
#include <cstring>

namespace ens {
namespace {

// Rows [first, first + count) of an image [C, H, W] with `padding` zeros around it, as
// [1, C, count, W + 2 padding].
void copy_rows(const Tensor& x, int64_t image, int64_t first, int64_t padding, Tensor& strip) {
  const int64_t channels = x.dim(1), height = x.dim(2), width = x.dim(3);
  const int64_t count = strip.dim(2), padded = strip.dim(3);
  const auto* from = static_cast<const std::byte*>(x.host());
  auto* to = static_cast<std::byte*>(strip.host());
  std::memset(to, 0, strip.bytes());
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t r = 0; r < count; ++r) {
      const int64_t row = first + r - padding;
      if (row < 0 || row >= height) continue;
      std::memcpy(to + (c * count + r) * padded + padding,
                  from + ((image * channels + c) * height + row) * width,
                  static_cast<size_t>(width));
    }
  }
}

}  // namespace

Tensor multiply_tiled(const Int8Layer& layer, const Tensor& x, int64_t bytes) {
  if (layer.weight.rank() != 4) return multiply(layer, x);
  const Tensor plain = x.plain();
  const Shape out = output_shape(layer, Shape(x.shape().dims().subspan(1)));
  const int64_t images = x.dim(0), outputs = out[0], height = out[1], width = out[2];
  const ConvSpec& spec = layer.conv;
  const int64_t padded = x.dim(3) + 2 * spec.padding;
  const int64_t row = x.dim(1) * padded * spec.stride + outputs * width * 4;
  const int64_t rows = std::clamp<int64_t>(bytes / row, 1, height);
  if (rows == height) return multiply(layer, x);
  Int8Layer strip_layer = layer;
  strip_layer.conv.padding = 0;
  Tensor y = Tensor::empty(batched(images, out), Dtype::kI32);
  for (int64_t b = 0; b < images; ++b) {
    for (int64_t first = 0; first < height; first += rows) {
      const int64_t count = std::min(rows, height - first);
      const int64_t reads =
          (count - 1) * spec.stride + (layer.weight.dim(2) - 1) * spec.dilation + 1;
      Tensor strip = Tensor::empty({1, x.dim(1), reads, padded}, x.dtype());
      copy_rows(plain, b, first * spec.stride, spec.padding, strip);
      const Tensor part = multiply(strip_layer, strip).plain();
      for (int64_t o = 0; o < outputs; ++o) {
        std::memcpy(y.data<int32_t>() + ((b * outputs + o) * height + first) * width,
                    part.data<int32_t>() + o * count * width,
                    static_cast<size_t>(count * width) * 4);
      }
    }
  }
  return y;
}

}  // namespace ens
