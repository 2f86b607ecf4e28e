// SPDX-License-Identifier: Apache-2.0
// Images as `rmt` sees them: every block holds k vectors of d elements, and each is multiplied by
// the matrix of the block's position, y = x R (rows of pixels for disguise.rmt.side `right`,
// columns for `left`, all pixels and channels as one vector for `full`).
#pragma once

#include <cstdint>

#include "nn/core/tensor.h"
#include "proto/config.pb.h"

namespace ens {

struct BlockVectors {
  enum class Side { kRight, kLeft, kFull };

  int64_t channels = 1, height = 1, width = 1;  // of an image
  int64_t block_height = 4, block_width = 4;
  Side side = Side::kRight;

  // `image`: [C,H,W]. Other methods than rmt are looked at with rmt's default blocks.
  BlockVectors(const Shape& image, const DisguiseConfig& disguise);

  int64_t rows() const { return (height + block_height - 1) / block_height; }  // of blocks
  int64_t columns() const { return (width + block_width - 1) / block_width; }
  int64_t positions() const { return rows() * columns(); }  // t
  int64_t vectors() const;                                  // k
  int64_t dims() const;                                     // d
  // Of one image, padded to whole blocks.
  Shape padded() const { return {channels, rows() * block_height, columns() * block_width}; }

  // [B,C,H,W], padded by repeating its edge if it has to be, times `scale` -> [t,B,k,d].
  Tensor split(const Tensor& images, float scale = 1) const;
  // [t,B,k,d] times `scale` -> [B,C,H,W].
  Tensor join(const Tensor& vectors, float scale = 1) const;

 private:
  // Calls f(index of the element in [t,B,k,d], channel, y, x) for all of image b.
  template <typename F>
  void each(int64_t images, int64_t b, F&& f) const;
};

// The noise that is added to pixels in 0..255 before the matrix, and to what comes out of it. Its
// law is public.
struct BlockNoise {
  double mean_before = 0, mean_after = 0;
  double variance_before = 0, variance_after = 0;

  explicit BlockNoise(const DisguiseConfig& disguise);
};

}  // namespace ens
