// SPDX-License-Identifier: Apache-2.0
// MAP and posterior mean with a learned prior (white box): gradient descent on the image, towards
// the feature that was sent and towards what a denoiser of public images takes for an image.
//
// The denoiser is a residual network (Zhang et al., "Beyond a Gaussian Denoiser", TIP 2017) at half
// the image's size that is told the noise's size (Zhang et al., "FFDNet", TIP 2018), trained on the
// public images at random noise. By Tweedie's formula what it takes off a noisy image is the slope
// of the prior's logarithm there, at that noise. The descent adds fresh noise before it asks, and
// lowers its size step by step, from all but the coarse colours to nothing (Romano et al., "The
// Little Engine That Could: RED", 2017; Mardani et al., "A Variational Perspective on Solving
// Inverse Problems with Diffusion Models", 2023).
//
// Candidates: the descent from what a decoder of true features makes of it (whoever holds the head
// can train one), with the noise beginning small; each descent from the mean colour; and the mean
// of all, for the posterior's. The attacker's own criterion is how well each does on held-out
// public images.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "attacks/core/denoiser.h"
#include "attacks/split/decoding.h"
#include "attacks/split/registry.h"
#include "attacks/split/rmle.h"
#include "base/error.h"
#include "nn/autograd/ops.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

// The sizes of noise, of pixels in [0, 1]: what the denoiser learns, and where descents begin.
constexpr double kLeastNoise = 0.01, kMostNoise = 1, kFromNothing = 0.5, kFromDecoder = 0.1;
constexpr int64_t kJudged = 64;  // held-out images that go through the descents too

// How many of the denoiser's images in training, and of a descent's steps for an image, cost what
// one image of a decoder's training does.
constexpr int64_t kDenoisedPerImage = 8, kStepsPerImage = 16;

Tensor normal(const Shape& shape, Rng& rng, Device device) {
  Tensor t = Tensor::empty(shape);
  rng.fill_normal(t.span<float>(), 0, 1);
  return t.to(device);
}

std::shared_ptr<Denoiser> train_denoiser(const ServerView& view, const AttackContext& context,
                                         const Dataset& data) {
  const MapPriorConfig& settings = context.settings.map_prior();
  Rng rng(context.seed, "denoiser");
  auto denoiser = std::make_shared<Denoiser>(view.model.input_shape(), settings.channels(),
                                             settings.blocks(), rng);
  denoiser->to(context.device);
  OptimSpec adam;
  adam.kind = OptimSpec::Kind::kAdam;
  Optimizer optimizer(denoiser->parameters(), adam);
  LoaderOptions loading;
  loading.batch = std::min<int64_t>(context.settings.batch(), data.count());
  loading.seed = rng.next();
  loading.device = context.device;
  loading.flip = true;
  Loader loader(data, loading);
  FitOptions fitting;
  fitting.label = "the denoiser";
  fitting.epochs = settings.epochs();
  fitting.lr = 3e-3f;
  fit(
      fitting, loader, optimizer,
      [&](const Batch& b) {
        const int64_t n = b.images.dim(0);
        std::vector<float> sizes(static_cast<size_t>(n));
        for (float& s : sizes) {
          s = static_cast<float>(kLeastNoise * std::pow(kMostNoise / kLeastNoise, rng.uniform()));
        }
        const Tensor drawn = normal(b.images.shape(), rng, context.device);
        const Var size(Tensor::from(sizes, {n, 1, 1, 1}).to(context.device));
        const Var noisy = add(Var(b.images.to(context.device)), mul(Var(drawn), size));
        return mse(cast(denoiser->noise(cast(noisy, context.dtype), sizes), Dtype::kF32),
                   Var(drawn));
      },
      [&](int64_t images, double loss) {
        context.report(images / kDenoisedPerImage,
                       "map-prior: denoiser, loss " + std::to_string(loss).substr(0, 6));
      },
      nullptr);
  denoiser->freeze();
  return denoiser;
}

class MapPrior : public AttackOn<WhiteBoxView> {
 public:
  std::string name() const override { return "map-prior"; }
  std::string title() const override { return "MAP with a learned prior"; }
  bool only_in_full_tier() const override { return true; }

  AttackCost cost(const SplitSetting& setting, const AttackConfig& settings) const override {
    const MapPriorConfig& own = settings.map_prior();
    const int64_t images = training_images(setting);
    const int64_t descended =
        setting.scored_images + std::min(kJudged, held_out_count(setting.public_images));
    return {.decoders = images * settings.decoder().epochs() +
                        images * own.epochs() / kDenoisedPerImage +
                        descended * own.steps() * (own.starts() + 1) / kStepsPerImage};
  }

  std::vector<Reconstruction> run_on(const WhiteBoxView& view,
                                     const AttackContext& context) override {
    const FeatureMap client = client_features(view, name());
    const PublicSplit data = split_public(*view.public_data);
    const auto denoiser = train_denoiser(view, context, data.train);
    Rng rng(context.seed, name());
    const auto features = [&](const Tensor& images) {
      NoGrad no_grad;
      const Var x = cast(Var(images.to(context.device)), context.dtype);
      return view.channel ? view.channel(view.head->forward(x), &rng).value() : client(x).value();
    };
    const auto decoder = train_decoder(view, context, data.train, features, rng.next(), name());
    // The held-out images are the first, what the client sent follows.
    const Tensor judged = images_of(data.held_out, 0, std::min(kJudged, data.held_out.count()));
    const Tensor z = concat(std::vector<Var>{cast(Var(features(judged)), Dtype::kF32),
                                             Var(view.observed.to(context.device))},
                            0)
                         .value()
                         .plain();
    std::vector<std::pair<std::string, Tensor>> found;
    found.emplace_back("from a decoder", descend(view, context, client, *denoiser, z,
                                                 decode(*decoder, view, context, z), rng));
    const int starts = context.settings.map_prior().starts();
    Var sum(found[0].second);
    for (int i = 1; i <= starts; ++i) {
      found.emplace_back("start " + std::to_string(i),
                         descend(view, context, client, *denoiser, z, Tensor(), rng));
      sum = add(sum, Var(found.back().second));
    }
    found.emplace_back("mean of all",
                       affine(sum, 1.0f / static_cast<float>(starts + 1), 0).value().plain());
    std::vector<Reconstruction> all;
    for (const auto& [candidate, images] : found) {
      Reconstruction r;
      r.candidate = candidate;
      r.calibration_targets = judged;
      r.calibration_images = images.rows(0, judged.dim(0)).clone();
      r.images = images.rows(judged.dim(0), view.observed.dim(0)).clone();
      r.self_score = -decoder_loss(DecoderLoss::kBoth, Var(r.calibration_images), judged).item();
      all.push_back(std::move(r));
    }
    return all;
  }

 private:
  // z [M,...] -> images [M,C,S,S] in [0, 1], on the CPU. `start`: images to begin with; undefined:
  // the mean colour.
  static Tensor descend(const WhiteBoxView& view, const AttackContext& context,
                        const FeatureMap& client, Denoiser& denoiser, const Tensor& z,
                        const Tensor& start, Rng& rng) {
    constexpr int64_t kBatch = 64;
    const MapPriorConfig& settings = context.settings.map_prior();
    AttackContext plain = context;  // no prior but this one
    plain.settings.mutable_rmle()->set_tv(0);
    plain.settings.mutable_rmle()->set_l2(0);
    Tensor images = Tensor::empty(batched(z.dim(0), view.model.input_shape()));
    std::vector<float> to_unit = view.model.stddev, shift = view.model.mean;
    for (size_t c = 0; c < to_unit.size(); ++c) {
      to_unit[c] = 1 / to_unit[c];
      shift[c] *= -to_unit[c];
    }
    const auto per_channel = [&](const std::vector<float>& values) {
      return Tensor::from(values, {std::ssize(values)}).to(context.device);
    };
    const Tensor gain = per_channel(to_unit), offset = per_channel(shift);
    const double first_noise = start.defined() ? kFromDecoder : kFromNothing;
    for (int64_t first = 0; first < z.dim(0); first += kBatch) {
      const int64_t n = std::min(kBatch, z.dim(0) - first);
      const Shape shape = batched(n, view.model.input_shape());
      Dtype dtype = context.dtype;
      const RmleObjective objective([&](const Var& x) { return client(cast(x, dtype)); },
                                    z.rows(first, n), view.model, plain);
      Tensor from = Tensor::zeros(shape, Dtype::kF32, context.device);
      if (start.defined()) {
        from = channel_affine(Var(start.rows(first, n).to(context.device)), gain, offset).value();
      }
      const Var u(from, true);
      OptimSpec adam;
      adam.kind = OptimSpec::Kind::kAdam;
      Optimizer optimizer({{"images", u}}, adam);
      for (int step = 0; step < settings.steps(); ++step) {
        const double done = static_cast<double>(step) / settings.steps();
        if (done >= 0.8) dtype = Dtype::kF32;  // as rmle()
        const auto noise =
            static_cast<float>(first_noise * std::pow(kLeastNoise / first_noise, done));
        const Var drawn(normal(shape, rng, context.device));
        Var pull;  // the image less what the denoiser makes of it, in the units of u
        {
          const NoGrad no_grad;
          const Var noisy = add(objective.images(u), affine(drawn, noise, 0));
          const std::vector<float> sizes(static_cast<size_t>(n), noise);
          const Var guess = cast(denoiser.noise(cast(noisy, context.dtype), sizes), Dtype::kF32);
          pull = channel_affine(affine(sub(guess, drawn), noise, 0), gain,
                                Tensor::zeros(gain.shape(), Dtype::kF32, context.device));
        }
        const auto weight = static_cast<float>(settings.weight() * static_cast<double>(n));
        const Var loss = add(objective(u), affine(mean(mul(u, pull)), weight, 0));
        loss.backward();
        optimizer.step(
            static_cast<float>(settings.lr() * (1 + std::cos(std::numbers::pi * done)) / 2));
        context.report(n / kStepsPerImage,
                       "map-prior: descent, loss " +
                           std::to_string(loss.item() / static_cast<float>(n)).substr(0, 8));
      }
      NoGrad no_grad;
      images.rows(first, n).copy_from(objective.images(u).value());
    }
    for (float& pixel : images.span<float>()) pixel = std::clamp(pixel, 0.0f, 1.0f);
    return images;
  }
};

}  // namespace

std::unique_ptr<SplitAttack> map_prior_attack() { return std::make_unique<MapPrior>(); }

}  // namespace ens
