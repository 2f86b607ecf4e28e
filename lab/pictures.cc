// SPDX-License-Identifier: Apache-2.0
#include "lab/pictures.h"

#include <algorithm>

namespace ens {

Shape picture_shape(const Shape& row) { return row.rank() == 2 ? Shape{1, row[0], row[1]} : row; }

Tensor as_picture(const Tensor& row, float low, float high) {
  const Tensor all = row.reshape(picture_shape(row.shape()));
  const Tensor picture = all.dim(0) == 3 ? all.clone() : all.rows(0, 1).clone();
  for (float& value : picture.span<float>())
    value = std::clamp((value - low) / (high - low), 0.0f, 1.0f);
  return picture;
}

Tensor tiled(const std::vector<Tensor>& pictures, int64_t columns, int64_t down, int64_t across) {
  const int64_t channels = pictures[0].dim(0), height = pictures[0].dim(1),
                width = pictures[0].dim(2);
  const int64_t lines = (static_cast<int64_t>(pictures.size()) + columns - 1) / columns;
  Tensor sheet = Tensor::full(
      {channels, lines * (height + down) - down, columns * (width + across) - across}, 1.0f);
  for (size_t i = 0; i < pictures.size(); ++i) {
    const int64_t top = static_cast<int64_t>(i) / columns * (height + down),
                  left = static_cast<int64_t>(i) % columns * (width + across);
    for (int64_t line = 0; line < channels * height; ++line) {
      std::copy_n(pictures[i].data<float>() + line * width, width,
                  sheet.data<float>() +
                      (line / height * sheet.dim(1) + top + line % height) * sheet.dim(2) + left);
    }
  }
  return sheet;
}

std::pair<float, float> range_of(const Tensor& rows, bool bytes) {
  if (bytes) return {0.0f, 255.0f};
  const auto [low, high] = std::ranges::minmax(rows.span<float>());
  return {low, high > low ? high : low + 1};
}

}  // namespace ens
