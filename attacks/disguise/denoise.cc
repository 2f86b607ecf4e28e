// SPDX-License-Identifier: Apache-2.0
// A denoiser behind the recovered key: once the matrices are known, what is left of `rmt` is noise of
// a public law, and that a network removes which was trained on public images with noise of this law.
// The noise's own level, which no unbiased linear attack goes beyond, is no limit for it.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "attacks/core/denoiser.h"
#include "attacks/disguise/moments.h"
#include "attacks/disguise/registry.h"
#include "nn/autograd/ops.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

// The noise of rebuilt images, of pixels in [0, 1].
class RebuiltNoise {
 public:
  RebuiltNoise(const PublicView& view, const BlockInverse& inverse)
      : blocks_(view.image, view.disguise), inverse_(inverse) {
    const BlockNoise noise(view.disguise);
    before_ = std::sqrt(noise.variance_before), after_ = std::sqrt(noise.variance_after);
    normal_ = view.disguise.method() == "noise" || view.disguise.rmt().noise_law() == "gaussian";
  }

  bool any() const { return before_ + after_ > 0; }

  Tensor draw(int64_t images, Rng& rng) const {
    Shape shape = before_ > 0 ? batched(images, {blocks_.channels, blocks_.height, blocks_.width})
                              : batched(images, blocks_.padded());
    Tensor out = Tensor::empty(shape);
    const double deviation = before_ > 0 ? before_ / 255 : after_;
    for (float& v : out.span<float>()) {
      v = static_cast<float>(deviation *
                             (normal_ ? rng.normal() : std::sqrt(12.0) * (rng.uniform() - 0.5)));
    }
    return before_ > 0 ? out : inverse_.apply(blocks_, BlockNoise(DisguiseConfig()), out);
  }

 private:
  const BlockVectors blocks_;
  const BlockInverse& inverse_;
  double before_, after_;
  bool normal_;
};

float root_mean_square(const Tensor& t) {
  double squares = 0;
  for (const float v : t.span<float>()) squares += double{v} * v;
  return static_cast<float>(std::sqrt(squares / static_cast<double>(t.numel())));
}

class Denoise : public AttackOn<PublicView> {
 public:
  std::string name() const override { return "denoise"; }
  std::string title() const override { return "moments, then a denoiser"; }
  std::string not_applicable_reason(const DisguiseSetting& setting) const override {
    return no_moments_reason(setting);
  }
  AttackCost cost(const DisguiseSetting& setting, const AttackConfig& settings) const override {
    return {.decoders = setting.public_images * settings.denoise().epochs()};
  }

  std::vector<Reconstruction> run_on(const PublicView& view,
                                     const AttackContext& context) override {
    const auto estimates = estimates_by_moments(view, context);
    std::vector<Reconstruction> all = rebuilt_by_moments(view, estimates);
    const RebuiltNoise noise(view, estimates[0].inverse);
    if (!noise.any()) return all;
    Rng rng(context.seed, name());
    const float size = root_mean_square(noise.draw(64, rng));
    const auto denoiser = train(view, noise, size, context, rng);
    for (Reconstruction& r : all) r.images = denoised(*denoiser, r.images, size, context);
    return all;
  }

 private:
  static std::shared_ptr<Denoiser> train(const PublicView& view, const RebuiltNoise& noise,
                                         float size, const AttackContext& context, Rng& rng) {
    const DenoiseConfig& settings = context.settings.denoise();
    auto denoiser =
        std::make_shared<Denoiser>(view.image, settings.channels(), settings.blocks(), rng);
    denoiser->to(context.device);
    OptimSpec adam;
    adam.kind = OptimSpec::Kind::kAdam;
    Optimizer optimizer(denoiser->parameters(), adam);
    LoaderOptions loading;
    loading.batch = std::min<int64_t>(context.settings.batch(), view.public_data->count());
    loading.seed = rng.next();
    loading.flip = true;
    Loader loader(*view.public_data, loading);
    FitOptions fitting;
    fitting.label = "the denoiser";
    fitting.epochs = settings.epochs();
    fitting.lr = 3e-3f;
    fit(
        fitting, loader, optimizer,
        [&](const Batch& b) {
          const int64_t n = b.images.dim(0);
          const std::vector<float> sizes(static_cast<size_t>(n), size);
          const Var drawn(noise.draw(n, rng).to(context.device));
          const Var noisy = add(Var(b.images.to(context.device)), drawn);
          const Var found = denoiser->noise(cast(noisy, context.dtype), sizes);
          return mse(cast(found, Dtype::kF32), affine(drawn, 1 / size, 0));
        },
        [&](int64_t images, double loss) {
          context.report(images, fmt::format("denoiser, loss {:.4f}", loss));
        },
        nullptr);
    denoiser->freeze();
    return denoiser;
  }

  static Tensor denoised(Denoiser& denoiser, const Tensor& images, float size,
                         const AttackContext& context) {
    constexpr int64_t kBatch = 128;
    const NoGrad no_grad;
    Tensor out = Tensor::empty(images.shape());
    for (int64_t first = 0; first < images.dim(0); first += kBatch) {
      const int64_t n = std::min(kBatch, images.dim(0) - first);
      const Var x(images.rows(first, n).to(context.device));
      const std::vector<float> sizes(static_cast<size_t>(n), size);
      const Var noise = cast(denoiser.noise(cast(x, context.dtype), sizes), Dtype::kF32);
      out.rows(first, n).copy_from(sub(x, affine(noise, size, 0)).value());
    }
    return out;
  }
};

}  // namespace

std::unique_ptr<DisguiseAttack> disguise_denoise_attack() { return std::make_unique<Denoise>(); }

}  // namespace ens
