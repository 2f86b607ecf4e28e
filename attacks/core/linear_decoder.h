// SPDX-License-Identifier: Apache-2.0
// Ridge regression from features to pixels: what a few known pairs suffice for. One pair holds as
// many samples as its feature has positions, since the client's first cells are convolutions.
#pragma once

#include <cstdint>

#include "nn/core/tensor.h"

namespace ens {

// Every position of the feature map gives the block of pixels above it, as a linear function of the
// features in a window around it (3x3; 1x1 where features have very many channels).
class LinearDecoder {
 public:
  // images [m,c,S,S] in [0, 1], features [m,C,h,h], float32 on the CPU, S a multiple of h. The
  // strength of the regularisation, and whether means are taken at every position (which removes a
  // fixed noise) or over all, are chosen on the last `held_out` pairs (0: on the lower half of the
  // maps) before all pairs are used. `seed` draws the samples where there are more than it takes.
  LinearDecoder(const Tensor& images, const Tensor& features, int64_t held_out, uint64_t seed);

  // [n,C,h,h] -> [n,c,S,S] in [0, 1].
  Tensor decode(const Tensor& features) const;
  // Mean squared error on what was held out, of the best choice before all pairs were used.
  double held_out_error() const { return held_out_error_; }

 private:
  int window_ = 3;
  Tensor feature_mean_;  // [C,h,h]
  Tensor image_mean_;    // [c,S,S]
  Tensor weight_;        // [window^2 * C, c * (S/h)^2]
  double held_out_error_ = 0;
};

}  // namespace ens
