// SPDX-License-Identifier: Apache-2.0
// Images as `aes` sees them: units of pixels that are encrypted by themselves. Equal pixels under
// one key are equal ciphertext.
#pragma once

#include <cstdint>
#include <vector>

#include "nn/core/tensor.h"
#include "proto/config.pb.h"

namespace ens {

struct Units {
  int64_t channels = 1, height = 1, width = 1;  // of an image
  int64_t unit_height = 4, unit_width = 4;      // in pixels
  int64_t row_height = 4, row_width = 4;        // in pixels of what is disguised
  enum class Keys { kOne, kPosition, kChannel } keys = Keys::kOne;

  // `image`: [C,H,W]. Other methods than aes are looked at in units of 4x4.
  Units(const Shape& image, const DisguiseConfig& disguise);

  int64_t rows() const { return (height + unit_height - 1) / unit_height; }
  int64_t columns() const { return (width + unit_width - 1) / unit_width; }
  int64_t positions() const { return rows() * columns(); }
  int64_t count() const { return channels * positions(); }  // of one image: channel by channel
  Shape row() const { return {channels, rows() * row_height, columns() * row_width}; }

  // A number for the content of every unit of [B,C,H,W] or [B, row()], [B, count()]: equal for
  // equal content under the same key, and else different (but for one chance in 2^64).
  std::vector<uint64_t> codes_of_images(const Tensor& images) const;
  std::vector<uint64_t> codes_of_rows(const Tensor& rows) const;

 private:
  std::vector<uint64_t> codes(const Tensor& maps, int64_t cell_height, int64_t cell_width) const;
};

// The content that is the commonest under each unit's key, if it was met more than once, else 0:
// [count()]. What is common among plain images is so among disguised ones.
std::vector<uint64_t> commonest(const Units& units, const std::vector<uint64_t>& codes);

// How well the patterns of equal units of M images, seen disguised, agree with those of G plain
// ones: float32 [M, G]. A unit agrees if the first unit of the same content is the same in both,
// and once more if both or neither have the commonest content. `common`: commonest() of what was
// seen disguised.
Tensor equal_patterns(const Units& units, const std::vector<uint64_t>& seen,
                      const std::vector<uint64_t>& common, const std::vector<uint64_t>& plain);

}  // namespace ens
