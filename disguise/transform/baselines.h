// SPDX-License-Identifier: Apache-2.0
// The transforms without a key: the positive control, and what a disguise is compared with.
#pragma once

#include "disguise/transform/transform.h"

namespace ens {

// The images as they are.
std::unique_ptr<Transform> identity_transform(const ImageShape& image);

// Adds N(0, sigma^2) to each pixel; sigma >= 0, of pixels in 0..255. An attacker without bias has a
// mean squared error of at least sigma^2 (Maeng et al., NeurIPS 2023).
std::unique_ptr<Transform> noise_transform(const ImageShape& image, double sigma);

// The mean of every cell of `cell` x `cell` pixels (fewer at the right and lower edge), of pixels
// in [0, 1], plus Laplace noise of scale channels x cells / epsilon; then enlarged to the image's
// size and to 0..255, which takes nothing away. Every image by itself is epsilon-differentially
// private: another image changes each of the means by at most 1.
std::unique_ptr<Transform> dp_transform(const ImageShape& image, int cell, double epsilon);

}  // namespace ens
