// SPDX-License-Identifier: Apache-2.0
// Feature alignment, query-free (in the manner of FORA: "Feature-Oriented Reconstruction Attack",
// CVPR 2024): a substitute head is trained on public images until its features are distributed like
// those that the client sent; a decoder of the substitute's features then reads the client's.
//
// The distributions are compared by an adversarial critic, by moments and by the maximum mean
// discrepancy (Gretton et al., JMLR 2012). That needs neither the selector nor the server nets.
// Distributions leave symmetries of the images open (the negative, above all); the server nets
// settle them without the truth: they classify what was read aright best.
#pragma once

#include <memory>
#include <span>

#include "attacks/split/views.h"

namespace ens {

// The distribution alone, or with the shadow's cross-entropy.
std::unique_ptr<SplitAttack> alignment_attack(bool with_shadow);

// Moments of features [M,C,H,W], in units of their root mean square deviation `scale`.
struct FeatureMoments {
  float scale = 1;
  Tensor mean, stddev;  // [1,C,H,W] of every position over the images (float32, biased)
  Tensor covariance;    // [C,C] of the channels over images and positions
};
// Of all rows of `parts` together. Error if there are none.
FeatureMoments feature_moments(std::span<const Tensor> parts, Device device);

// How far a batch's moments are from `wanted`: 10 x mean squared difference of the means, 10 x of
// the deviations, 100 x of the covariances; a scalar. z [B,C,H,W], float32, divided by the scale.
Var moment_loss(const Var& z, const FeatureMoments& wanted);

// Squared maximum mean discrepancy of the rows of x and y [B, ...], biased estimate, float32. The
// kernel is the mean of five Gaussians exp(-d^2 / (k * s)), k = 1/4 .. 4, where s is the mean
// squared distance of the rows of y. y is taken as constant.
Var kernel_discrepancy(const Var& x, const Tensor& y);

}  // namespace ens
