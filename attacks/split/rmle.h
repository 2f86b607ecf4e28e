// SPDX-License-Identifier: Apache-2.0
// Regularised maximum likelihood estimation (He, Zhang, Lee, "Model Inversion Attacks Against
// Collaborative Inference", ACSAC 2019, equation 2): the image is found by gradient descent on the
// distance of its feature from the one that was sent.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "attacks/split/views.h"
#include "nn/autograd/var.h"

namespace ens {

// Images [B,C,S,S] in [0, 1] -> features [B,...]; differentiable.
using FeatureMap = std::function<Var(const Var& images)>;

// What the client sends, in the mean over what its protection draws. Error if the view has no head;
// the view must outlive it.
FeatureMap client_features(const WhiteBoxView& view, const std::string& attack);

// What is minimised, a scalar:
//   sum over images i of  mean |F(x_i) - z_i|^2 / mean z_i^2 + w_tv TV(u_i) + w_l2 mean u_i^2
// with u [B,C,S,S] the normalised images (zero: the training set's mean colour), x = u * stddev +
// mean by the model's normalisation, z [B,...] the features to explain and TV the mean squared
// horizontal plus the mean squared vertical difference. A sum, so that no image's result depends on
// which others are in the batch. Unlike the paper's, the feature error is relative to the feature's
// power: the same weights then suit nets whose features differ a thousandfold in size.
class RmleObjective {
 public:
  // z float32 on the view's device; `context` gives the weights.
  RmleObjective(FeatureMap features, const Tensor& z, const ModelSpec& model,
                const AttackContext& context);
  Var operator()(const Var& u) const;
  Var images(const Var& u) const;  // x, not clipped

 private:
  FeatureMap features_;
  Var gain_;              // [B,1,...]: one over the root mean square of each z_i
  Var target_;            // z * gain
  Tensor stddev_, mean_;  // [C]
  float tv_, l2_;
};

// Starts from u = 0 and takes attack.rmle.iterations steps of Adam with AMSGrad at rate
// attack.rmle.lr. z [M,...] float32 -> images [M,C,S,S] float32 in [0, 1], on the CPU. `features`
// is called with images of context.dtype, and of float32 in the last fifth of the steps: the bottom
// of an ill-conditioned valley needs the digits, the way there does not.
Tensor rmle(const FeatureMap& features, const Tensor& z, const ServerView& view,
            const AttackContext& context, const std::string& label);

}  // namespace ens
