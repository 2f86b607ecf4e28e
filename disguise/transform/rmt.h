// SPDX-License-Identifier: Apache-2.0
// RMT (DisguisedNets): every block of pixels is multiplied by a matrix, with noise.
#pragma once

#include <cstdint>
#include <vector>

#include "disguise/transform/blocks.h"

namespace ens {

enum class RmtSide {
  kRight,  // Y_c = X_c R, of every channel; R is s x s
  kLeft,   // Y_c = R X_c; R is r x r
  kFull,   // vec(Y) = vec(X) R, of channels, rows and columns as one row vector; R is Crs x Crs
};
enum class NoiseLaw { kUniform, kCentred, kGaussian };  // [0, N), [-N/2, N/2), N(0, N^2 / 12)

struct RmtParameters {
  int block_height = 4, block_width = 4;  // r x s pixels
  RmtSide side = RmtSide::kRight;
  Tensor matrices;  // float32 [t, n, n], a matrix a position of a block, or [1, n, n]: all have the
                    // same
  std::vector<int64_t>
      permutation;   // the block at position i ends at permutation[i]; empty: all stay
  double noise = 0;  // N, of pixels in 0..255; 0: none
  NoiseLaw noise_law = NoiseLaw::kUniform;
  bool noise_after = false;  // added to what comes out, not to the pixels
};

// n: the size of a matrix.
int64_t rmt_matrix_size(const BlockGrid& grid, RmtSide side);

// Error if matrices or permutation do not fit the image, if a block is larger than the image, or
// for a noise that is negative or not finite.
std::unique_ptr<Transform> rmt_transform(const ImageShape& image, const RmtParameters& parameters);

}  // namespace ens
