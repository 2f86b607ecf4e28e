// SPDX-License-Identifier: Apache-2.0
// A denoiser behind the recovered key: once the matrices are known, what is left of `rmt` is noise
// of a public law, and that a network removes which was trained on public images with noise of this
// law. The noise's own level, which no unbiased linear attack goes beyond, is no limit for it.
#include <fmt/format.h>

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>

#include "attacks/core/denoiser.h"
#include "attacks/disguise/moments.h"
#include "attacks/disguise/registry.h"
#include "nn/autograd/ops.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

constexpr int64_t kWindow = 5;

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

// The kernel of 5x5, [C,C,5,5], that tells the noise from noisy images best, by least squares;
// pixels less 0.5, zeros around the image.
Tensor best_kernel(const Tensor& noisy, const Tensor& noise) {
  const int64_t c = noisy.dim(1), h = noisy.dim(2), w = noisy.dim(3),
                inputs = c * kWindow * kWindow;
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Eigen::MatrixXd gram = Eigen::MatrixXd::Zero(inputs, inputs);
  Eigen::MatrixXd cross = Eigen::MatrixXd::Zero(inputs, c);
  Matrix windows(h * w, inputs);
  for (int64_t i = 0; i < noisy.dim(0); ++i) {
    const float* image = noisy.data<float>() + i * c * h * w;
    for (int64_t row = 0; row < h * w; ++row) {
      for (int64_t k = 0; k < inputs; ++k) {
        const int64_t y = row / w + k / kWindow % kWindow - kWindow / 2;
        const int64_t x = row % w + k % kWindow - kWindow / 2;
        const bool inside = y >= 0 && y < h && x >= 0 && x < w;
        windows(row, k) = inside ? image[(k / (kWindow * kWindow) * h + y) * w + x] - 0.5f : 0;
      }
    }
    const Eigen::Map<const Matrix> targets(noise.data<float>() + i * c * h * w, c, h * w);
    gram += (windows.transpose() * windows).cast<double>();
    cross += (windows.transpose() * targets.transpose()).cast<double>();
  }
  gram.diagonal().array() += 1e-6 * gram.trace() / static_cast<double>(inputs);
  const Eigen::MatrixXd solved = gram.ldlt().solve(cross);  // [inputs, C]
  Tensor kernel = Tensor::empty({c, c, kWindow, kWindow});
  Eigen::Map<Matrix>(kernel.data<float>(), c, inputs) = solved.transpose().cast<float>();
  return kernel;
}

// The best linear filter, and a residual network for what it misses, which begins with nothing.
class LawDenoiser : public Module {
 public:
  LawDenoiser(const Shape& image, const DenoiseConfig& settings, float size, Rng& rng)
      : size_(size) {
    linear_ = add("linear", std::make_shared<Conv2d>(image[0], image[0], kWindow,
                                                     ConvSpec{1, kWindow / 2}, false, rng));
    net_ =
        add("net", std::make_shared<Denoiser>(image, settings.channels(), settings.blocks(), rng));
    for (const NamedVar& p : net_->parameters()) {
      if (p.name == "last.weight") p.var.mutable_value().copy_from(Tensor::zeros(p.var.shape()));
    }
  }
  void start_with(const Tensor& kernel) {
    linear_->parameters()[0].var.mutable_value().copy_from(kernel);
  }
  // Noisy images -> their noise, in deviations.
  Var forward(const Var& noisy) override {
    const std::vector<float> sizes(static_cast<size_t>(noisy.dim(0)), size_);
    return ens::add(cast(linear_->forward(affine(noisy, 1, -0.5f)), Dtype::kF32),
                    cast(net_->noise(noisy, sizes), Dtype::kF32));
  }

 private:
  const float size_;
  std::shared_ptr<Conv2d> linear_;
  std::shared_ptr<Denoiser> net_;
};

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
  static std::shared_ptr<LawDenoiser> train(const PublicView& view, const RebuiltNoise& noise,
                                            float size, const AttackContext& context, Rng& rng) {
    constexpr int64_t kFiltered = 500;    // images for the linear filter
    constexpr int64_t kLeastSteps = 300;  // few images are gone through more often
    const DenoiseConfig& settings = context.settings.denoise();
    auto denoiser = std::make_shared<LawDenoiser>(view.image, settings, size, rng);
    const Tensor some =
        images_of(*view.public_data, 0, std::min(kFiltered, view.public_data->count()));
    const Tensor drawn = noise.draw(some.dim(0), rng);
    denoiser->start_with(best_kernel(add(Var(some), Var(drawn)).value().plain(),
                                     affine(Var(drawn), 1 / size, 0).value().plain()));
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
    fitting.epochs = std::max<int64_t>(settings.epochs(),
                                       (kLeastSteps + loader.batches() - 1) / loader.batches());
    fitting.lr = 2e-3f;
    fit(
        fitting, loader, optimizer,
        [&](const Batch& b) {
          const Var drawn(noise.draw(b.images.dim(0), rng).to(context.device));
          const Var noisy = add(Var(b.images.to(context.device)), drawn);
          return mse(denoiser->forward(cast(noisy, context.dtype)), affine(drawn, 1 / size, 0));
        },
        [&](int64_t images, double loss) {
          context.report(images, fmt::format("denoiser, loss {:.4f}", loss));
        },
        nullptr);
    denoiser->freeze();
    return denoiser;
  }

  static Tensor denoised(LawDenoiser& denoiser, const Tensor& images, float size,
                         const AttackContext& context) {
    constexpr int64_t kBatch = 128;
    const NoGrad no_grad;
    Tensor out = Tensor::empty(images.shape());
    for (int64_t first = 0; first < images.dim(0); first += kBatch) {
      const int64_t n = std::min(kBatch, images.dim(0) - first);
      const Var x(images.rows(first, n).to(context.device));
      const Var noise = denoiser.forward(cast(x, context.dtype));
      out.rows(first, n).copy_from(sub(x, affine(noise, size, 0)).value());
    }
    return out;
  }
};

}  // namespace

std::unique_ptr<DisguiseAttack> disguise_denoise_attack() { return std::make_unique<Denoise>(); }

}  // namespace ens
