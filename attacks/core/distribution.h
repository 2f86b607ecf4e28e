// SPDX-License-Identifier: Apache-2.0
// How features are distributed, and how far two distributions are apart: by moments, by the maximum
// mean discrepancy, and by a critic. For attackers who align what they make with what they have
// seen.
#pragma once

#include <memory>
#include <span>

#include "nn/autograd/var.h"
#include "nn/core/rng.h"
#include "nn/modules/layers.h"
#include "nn/optim/optim.h"

namespace ens {

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

// Judges maps [C,H,W] by one number: three convolutions, of stride 2 as long as the map is larger
// than one position.
std::shared_ptr<Sequential> build_critic(const Shape& map, Rng& rng);
void require_gradients(const Module& module, bool on);
OptimSpec adversarial_adam();  // Adam with betas 0.5 and 0.9, as usual for adversaries

}  // namespace ens
