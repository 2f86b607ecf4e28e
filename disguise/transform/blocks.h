// SPDX-License-Identifier: Apache-2.0
// Images as blocks of pixels and back: what the methods that work on blocks share, and the attacks
// on them.
#pragma once

#include "disguise/transform/transform.h"

namespace ens {

// The blocks of height x width pixels that cover an image; the image is padded to whole blocks by
// repeating its right and lower edge.
struct BlockGrid {
  ImageShape image;
  int height = 1, width = 1;  // of a block

  int rows() const { return (image.height + height - 1) / height; }
  int columns() const { return (image.width + width - 1) / width; }
  int64_t positions() const { return int64_t{rows()} * columns(); }  // t, row by row
  int64_t block_size() const { return int64_t{image.channels} * height * width; }
  ImageShape padded() const { return {image.channels, rows() * height, columns() * width}; }
};

// [B, C, H, W] -> [B, t, C, r, s]; a new tensor.
Tensor to_blocks(const Tensor& images, const BlockGrid& grid);
// The inverse, but for the padding, which stays: [B, t, C, r, s] -> [B, C, H', W'].
Tensor from_blocks(const Tensor& blocks, const BlockGrid& grid);

}  // namespace ens
