// SPDX-License-Identifier: Apache-2.0
// Decoder: from smashed features back to images, the inverse network of model-inversion attacks
// (He et al. 2019, ACSAC; arXiv 2401.10859 section 4).
#pragma once

#include <memory>

#include "nn/core/rng.h"
#include "nn/core/shape.h"
#include "nn/modules/layers.h"

namespace ens {

// features [C,h,w] of one image -> images [channels, size, size] in [0, 1]. A 3x3 convolution, then
// one transposed convolution of stride 2 for each halving between image and feature, then two 3x3
// convolutions and a sigmoid; batch norm and ReLU between. `width` channels
// inside, halved with every doubling of the map but not below 32.
std::shared_ptr<Sequential> build_decoder(const Shape& features, const Shape& image, int width,
                                          Rng& rng);

}  // namespace ens
