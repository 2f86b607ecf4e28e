// SPDX-License-Identifier: Apache-2.0
#include "ensemble/protect/adversary_train.h"

#include <cmath>

#include "base/error.h"
#include "nn/core/backend.h"

namespace ens {

FeatureAdversary::FeatureAdversary(const Shape& feature, const Shape& image, double target,
                                   Rng& rng, Device device)
    : target_(static_cast<float>(target)), net_(build_decoder(feature, image, kWidth, rng)) {
  if (!(target > 0)) fail("the pictures do not differ", "adversary");
  net_->to(device);
  OptimSpec spec;
  spec.kind = OptimSpec::Kind::kAdam;
  optimizer_ = std::make_unique<Optimizer>(net_->parameters(), spec);
}

Var FeatureAdversary::success(const Var& features, const Var& images) {
  // One pass serves both sides: it starts from a leaf, so that the gradient with respect to the
  // features can be handed on with the opposite aim.
  const Var leaf(features.value(), /*requires_grad=*/true);
  const Var error = mse(net_->forward(leaf), images.detach());
  const float share = 1 - error.item() / target_;
  const Device device = features.value().device();
  // A number that is none goes into the classifier's loss, whose training says so.
  if (!std::isfinite(share)) return Var(Tensor::full({1}, share, Dtype::kF32, device));
  error.backward();
  optimizer_->step(1e-3f);
  if (share <= 0) return Var(Tensor::zeros({1}, Dtype::kF32, device));
  Backend& be = backend(device);
  const Tensor slope = be.unary(UnaryOp::kAffine, leaf.grad(), -1 / target_, 0);
  return Var::make(
      Tensor::full({1}, share, Dtype::kF32, device), {features},
      [features, slope](const Tensor& dy) {
        features.accumulate(backend(slope.device()).unary(UnaryOp::kAffine, slope, dy.item(), 0));
      });
}

}  // namespace ens
