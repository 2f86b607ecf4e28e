// SPDX-License-Identifier: Apache-2.0
// Attacker-aware training (Li et al., "ResSFL: A Resistance Transfer Framework for Defending Model
// Inversion Attack in Split Federated Learning", CVPR 2022): an inverse network learns alongside to
// rebuild the images from the features, and the classifier pays for how well it does.
#pragma once

#include <memory>

#include "nn/models/decoder.h"
#include "nn/optim/optim.h"

namespace ens {

class FeatureAdversary {
 public:
  // A decoder (nn/models/decoder.h) of kWidth channels from `feature` [C,h,w] to `image`, trained
  // by Adam at a constant rate of 1e-3. `target` > 0: the mean squared error of somebody who knows
  // nothing but the mean picture; the pixels' variance is that.
  FeatureAdversary(const Shape& feature, const Shape& image, double target, Rng& rng,
                   Device device = {});

  // One step of the inverse network on these (features, images), then
  //   success = max(0, 1 - mse / target)    in [0, 1], [1] float32,
  // the share of the pictures' variance that it rebuilt before that step. Differentiable in
  // `features` alone: the network is the opponent's.
  Var success(const Var& features, const Var& images);

  Module& net() { return *net_; }
  Optimizer& optimizer() { return *optimizer_; }

 private:
  static constexpr int kWidth = 32;
  float target_;
  std::shared_ptr<Sequential> net_;
  std::unique_ptr<Optimizer> optimizer_;
};

}  // namespace ens
