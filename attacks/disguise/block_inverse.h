// SPDX-License-Identifier: Apache-2.0
// An attacker's estimate of how `rmt` is undone.
#pragma once

#include <cstdint>
#include <vector>

#include "attacks/disguise/block_vectors.h"

namespace ens {

struct BlockInverse {
  Tensor matrices;             // float32 [t,d,d], or [1,d,d] for all positions: x = y A
  std::vector<int64_t> place;  // of each original position among the disguised ones

  // [B,C',H',W'] -> [B,C,H,W] in [0, 1] as far as the estimate is right; not clipped.
  Tensor apply(const BlockVectors& blocks, const BlockNoise& noise, const Tensor& rows) const;
  // The other way: images [B,C,H,W] in [0, 1] -> rows with the noise's mean in the place of noise.
  // `row`: the shape of one.
  Tensor disguise(const BlockVectors& blocks, const BlockNoise& noise, const Tensor& images,
                  const Shape& row) const;
};

// The blocks [t,...] in the order `place`; the numbers 0, 1, ..., t - 1.
Tensor in_order(const Tensor& blocks, const std::vector<int64_t>& place);
std::vector<int64_t> as_they_are(int64_t positions);

// Why an attack that looks for the blocks' matrices cannot run; "" if it can: a disguised image has
// to consist of the image's blocks, padded or not.
std::string no_blocks_reason(const Shape& image, const Shape& row, const DisguiseConfig& disguise);

}  // namespace ens
