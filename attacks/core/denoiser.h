// SPDX-License-Identifier: Apache-2.0
// A denoiser of images: a residual network (Zhang et al., "Beyond a Gaussian Denoiser", TIP 2017)
// at half the image's size that is told the noise's size (Zhang et al., "FFDNet", TIP 2018).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "nn/core/rng.h"
#include "nn/modules/layers.h"

namespace ens {

// Noisy images [B,C,S,S], of pixels in [0, 1], and the deviation of each one's noise [B] -> the
// noise, in deviations.
class Denoiser : public Module {
 public:
  // `image`: [C,S,S]; residual blocks of two convolutions of `channels`.
  Denoiser(const Shape& image, int channels, int blocks, Rng& rng);
  Var noise(const Var& noisy, std::span<const float> sizes);
  Var forward(const Var& x) override;  // of the scaled images and a plane that says the size

 private:
  std::shared_ptr<Conv2d> first_;
  std::vector<std::shared_ptr<Sequential>> blocks_;
  std::shared_ptr<ConvTranspose2d> last_;
};

}  // namespace ens
