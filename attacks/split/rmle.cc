// SPDX-License-Identifier: Apache-2.0
#include "attacks/split/rmle.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "attacks/split/decoding.h"
#include "attacks/split/shadow.h"
#include "base/error.h"
#include "nn/autograd/ops.h"
#include "nn/core/backend.h"
#include "nn/optim/optim.h"

namespace ens {

FeatureMap client_features(const WhiteBoxView& view, const std::string& attack) {
  if (!view.head) fail("needs the client's head", attack, "use a white-box view");
  return [&view](const Var& images) {
    const Var z = view.head->forward(images);
    return view.protect ? view.protect(z) : z;
  };
}

RmleObjective::RmleObjective(FeatureMap features, const Tensor& z, const ModelSpec& model,
                             const AttackContext& context)
    : features_(std::move(features)),
      tv_(static_cast<float>(context.settings.rmle().tv())),
      l2_(static_cast<float>(context.settings.rmle().l2())) {
  NoGrad no_grad;
  const auto per_channel = [&](const std::vector<float>& values) {
    return Tensor::from(values, {static_cast<int64_t>(values.size())}).to(z.device());
  };
  stddev_ = per_channel(model.stddev);
  mean_ = per_channel(model.mean);
  Shape one_each = z.shape();
  for (int axis = 1; axis < z.rank(); ++axis) one_each.set(axis, 1);
  Tensor gain = mean_to(square(Var(z)), one_each).value().to(Device{}).plain();
  for (float& g : gain.span<float>()) g = 1 / std::sqrt(std::max(g, 1e-12f));
  gain_ = Var(gain.to(z.device()));
  target_ = mul(Var(z), gain_);
}

Var RmleObjective::images(const Var& u) const { return channel_affine(u, stddev_, mean_); }

Var RmleObjective::operator()(const Var& u) const {
  Var loss = mse(mul(cast(features_(images(u)), Dtype::kF32), gain_), target_);
  if (tv_ > 0) loss = add(loss, affine(total_variation(u), tv_, 0));
  if (l2_ > 0) loss = add(loss, affine(mean(square(u)), l2_, 0));
  return affine(loss, static_cast<float>(u.dim(0)), 0);
}

Tensor rmle(const FeatureMap& features, const Tensor& z, const ServerView& view,
            const AttackContext& context, const std::string& label) {
  constexpr int64_t kBatch = 64;
  const Shape one = view.model.input_shape();
  Tensor images = Tensor::empty({z.dim(0), one[0], one[1], one[2]});
  for (int64_t first = 0; first < z.dim(0); first += kBatch) {
    const int64_t n = std::min(kBatch, z.dim(0) - first);
    Dtype dtype = context.dtype;
    const RmleObjective objective([&](const Var& x) { return features(cast(x, dtype)); },
                                  z.rows(first, n).to(context.device), view.model, context);
    const Var u(Tensor::zeros({n, one[0], one[1], one[2]}, Dtype::kF32, context.device), true);
    OptimSpec adam;
    adam.kind = OptimSpec::Kind::kAdam;
    adam.amsgrad = true;
    Optimizer optimizer({{"images", u}}, adam);
    for (int step = 0; step < context.settings.rmle().iterations(); ++step) {
      if (step >= context.settings.rmle().iterations() * 4 / 5) dtype = Dtype::kF32;
      const Var loss = objective(u);
      loss.backward();
      optimizer.step(static_cast<float>(context.settings.rmle().lr()));
      context.report(
          n, label + ": loss " + std::to_string(loss.item() / static_cast<float>(n)).substr(0, 8));
    }
    NoGrad no_grad;
    images.rows(first, n).copy_from(objective.images(u).value());
  }
  for (float& pixel : images.span<float>()) pixel = std::clamp(pixel, 0.0f, 1.0f);
  return images;
}

}  // namespace ens
