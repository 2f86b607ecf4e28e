// SPDX-License-Identifier: Apache-2.0
#include "disguise/transform/blocks.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/threads.h"

namespace ens {
namespace {

constexpr int64_t kGrain = 8;  // images that are worth a thread

// Calls row(image, channel, y, block_row) for every row of pixels of a block: `block_row` is where
// it starts in [t, C, r, s], `y` its row in the padded image, `x` its first column.
template <typename F>
void for_each_row(const BlockGrid& grid, F row) {
  int64_t at = 0;
  for (int i = 0; i < grid.rows(); ++i) {
    for (int j = 0; j < grid.columns(); ++j) {
      for (int c = 0; c < grid.image.channels; ++c) {
        for (int y = 0; y < grid.height; ++y, at += grid.width)
          row(c, i * grid.height + y, j * grid.width, at);
      }
    }
  }
}

}  // namespace

Tensor to_blocks(const Tensor& images, const BlockGrid& grid) {
  check_images(images, grid.image);
  const int64_t count = images.dim(0), size = grid.positions() * grid.block_size();
  Tensor blocks =
      Tensor::empty({count, grid.positions(), grid.image.channels, grid.height, grid.width});
  const float* in = images.data<float>();
  float* out = blocks.data<float>();
  const int height = grid.image.height, width = grid.image.width;
  parallel_for(count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const float* image = in + b * grid.image.channels * height * width;
      float* to = out + b * size;
      for_each_row(grid, [&](int c, int y, int x, int64_t at) {
        const float* line = image + (int64_t{c} * height + std::min(y, height - 1)) * width;
        const int inside = std::clamp(width - x, 0, grid.width);
        std::memcpy(to + at, line + x, sizeof(float) * static_cast<size_t>(inside));
        std::fill(to + at + inside, to + at + grid.width, line[width - 1]);
      });
    }
  });
  return blocks;
}

Tensor from_blocks(const Tensor& blocks, const BlockGrid& grid) {
  const ImageShape padded = grid.padded();
  if (blocks.rank() != 5 || blocks.dim(1) != grid.positions() ||
      blocks.numel() != blocks.dim(0) * padded.shape().numel()) {
    fail("these are no blocks of " + padded.shape().str() + ": " + blocks.shape().str(),
         "from_blocks");
  }
  const int64_t count = blocks.dim(0), size = padded.shape().numel();
  Tensor images = Tensor::empty(batched(count, padded.shape()));
  const float* in = blocks.data<float>();
  float* out = images.data<float>();
  parallel_for(count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      for_each_row(grid, [&](int c, int y, int x, int64_t at) {
        std::memcpy(out + b * size + (int64_t{c} * padded.height + y) * padded.width + x,
                    in + b * size + at, sizeof(float) * static_cast<size_t>(grid.width));
      });
    }
  });
  return images;
}

}  // namespace ens
