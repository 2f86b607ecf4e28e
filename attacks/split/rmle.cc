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
namespace {

class RmleWhite : public Attack {
 public:
  std::string name() const override { return "rmle-white"; }
  std::string title() const override { return "rMLE on the client's head"; }
  KnowledgeLevel level() const override { return KnowledgeLevel::kWhiteBox; }

  int64_t work(const AdversaryView& view, const AttackOptions& options) const override {
    return view.observed.dim(0) * options.rmle_iterations;
  }

  std::vector<Reconstruction> run(const AdversaryView& view,
                                  const AttackOptions& options) override {
    if (!view.head) fail("needs the client's head", name(), "use a white-box view");
    Tensor z = view.observed;
    if (view.noise.defined()) {
      Shape one = z.shape();
      one.set(0, 1);
      z = backend(z.device()).binary(BinaryOp::kSub, z, view.noise.reshape(one));
    }
    const auto features = [&](const Var& images) { return view.head->forward(images); };
    Reconstruction r;
    r.part = "client's head";
    r.images = rmle(features, z, view, options, name());
    return {r};
  }
};

class RmleShadow : public Attack {
 public:
  std::string name() const override { return "rmle-shadow"; }
  std::string title() const override { return "rMLE on a shadow head"; }
  KnowledgeLevel level() const override { return KnowledgeLevel::kQueryFree; }
  bool through_bodies() const override { return true; }

  int64_t work(const AdversaryView& view, const AttackOptions& options) const override {
    const int64_t images = view.public_data->count() - held_out_count(*view.public_data);
    return shadow_passes(options, images) * std::ssize(view.bodies) +
           view.observed.dim(0) * options.rmle_iterations;
  }

  std::vector<Reconstruction> run(const AdversaryView& view,
                                  const AttackOptions& options) override {
    const PublicSplit data = split_public(*view.public_data);
    std::vector<int> nets(view.bodies.size());
    std::iota(nets.begin(), nets.end(), 0);
    const TrainedShadow shadow =
        train_shadow(view, options, data, nets, /*weighted=*/nets.size() > 1, name());
    Reconstruction r;
    r.part = "shadow of all nets";
    r.shadow_accuracy = shadow.accuracy;
    r.images = rmle(shadow.features, view.observed, view, options, name());
    return {r};
  }
};

}  // namespace

RmleObjective::RmleObjective(FeatureMap features, const Tensor& z, const ModelSpec& model,
                             const AttackOptions& options)
    : features_(std::move(features)), tv_(options.rmle_tv), l2_(options.rmle_l2) {
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

Tensor rmle(const FeatureMap& features, const Tensor& z, const AdversaryView& view,
            const AttackOptions& options, const std::string& label) {
  constexpr int64_t kBatch = 64;
  const Shape one = view.model.input_shape();
  Tensor images = Tensor::empty({z.dim(0), one[0], one[1], one[2]});
  for (int64_t first = 0; first < z.dim(0); first += kBatch) {
    const int64_t n = std::min(kBatch, z.dim(0) - first);
    Dtype dtype = view.dtype;
    const RmleObjective objective([&](const Var& x) { return features(cast(x, dtype)); },
                                  z.rows(first, n).to(view.device), view.model, options);
    const Var u(Tensor::zeros({n, one[0], one[1], one[2]}, Dtype::kF32, view.device), true);
    OptimSpec adam;
    adam.kind = OptimSpec::Kind::kAdam;
    adam.amsgrad = true;
    Optimizer optimizer({{"images", u}}, adam);
    for (int step = 0; step < options.rmle_iterations; ++step) {
      if (step >= options.rmle_iterations * 4 / 5) dtype = Dtype::kF32;
      const Var loss = objective(u);
      loss.backward();
      optimizer.step(options.rmle_lr);
      if (options.on_progress) {
        options.on_progress(
            n,
            label + ": loss " + std::to_string(loss.item() / static_cast<float>(n)).substr(0, 8));
      }
    }
    NoGrad no_grad;
    images.rows(first, n).copy_from(objective.images(u).value());
  }
  for (float& pixel : images.span<float>()) pixel = std::clamp(pixel, 0.0f, 1.0f);
  return images;
}

std::unique_ptr<Attack> rmle_white_attack() { return std::make_unique<RmleWhite>(); }
std::unique_ptr<Attack> rmle_shadow_attack() { return std::make_unique<RmleShadow>(); }

}  // namespace ens
