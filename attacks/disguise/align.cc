// SPDX-License-Identifier: Apache-2.0
// Feature alignment, the generic attacker: a substitute for the owner's transform, a linear map of
// every block with weights of its own, is trained on public images until its rows are distributed
// like the disguised ones, by moments, maximum mean discrepancy and a critic (in the manner of
// FORA, CVPR 2024); a decoder of the substitute's rows then reads the owner's. It knows of the
// method no more than that blocks go to blocks.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "attacks/core/distribution.h"
#include "attacks/disguise/block_decoder.h"
#include "attacks/disguise/registry.h"
#include "base/error.h"
#include "nn/autograd/ops.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

constexpr float kWarmUpRate = 5e-3f, kSubstituteRate = 2e-3f, kCriticRate = 3e-4f;  // of Adam

class Alignment {
 public:
  Alignment(const PublicView& view, const AttackContext& context)
      : context_(context),
        data_(*view.public_data),
        image_(view.image),
        row_(view.queries.shape().dims().subspan(1)),
        rng_(context.seed, "align") {
    constexpr int64_t kMost = 4000;
    const Tensor rows =
        view.rows(0, std::min({kMost, view.training_rows, context.settings.observed_features()}));
    scale_ = std::make_unique<RowScale>(rows);
    seen_ = scale_->apply(rows);
    substitute_ = std::make_shared<BlockLinear>(image_, row_, rng_);
    if (image_ == row_) substitute_->start_as_identity();
    substitute_->to(context.device);
    critic_ = build_critic(row_, rng_);
    critic_->to(context.device);
  }

  void train();
  Tensor decode(const Tensor& queries) {
    const auto rows = [&](const Tensor& images) {
      const NoGrad no_grad;
      return substitute(images).value();
    };
    const auto decoder =
        train_block_decoder(row_, image_, context_, data_, rows, rng_.next(), "align");
    return decode_rows(*decoder, image_, context_, scale_->apply(queries));
  }

 private:
  Var substitute(const Tensor& images) {
    return substitute_->forward(affine(Var(images.to(context_.device)), 4, -2));
  }
  Tensor next_seen(int64_t n) {
    Tensor out = Tensor::empty(batched(n, row_));
    for (int64_t i = 0; i < n; ++i) {
      const auto which = static_cast<int64_t>(rng_.below(static_cast<uint64_t>(seen_.dim(0))));
      out.rows(i, 1).copy_from(seen_.rows(which, 1));
    }
    return out.to(context_.device);
  }
  Var judge(const Var& rows) {
    return cast(critic_->forward(cast(rows, context_.dtype)), Dtype::kF32);
  }
  Var teach_critic(const Tensor& real, const Var& made) {
    return add(mean(relu(affine(judge(Var(real)), -1, 1))),
               mean(relu(affine(judge(made.detach()), 1, 1))));
  }

  const AttackContext& context_;
  const Dataset& data_;
  const Shape image_, row_;
  Rng rng_;
  std::unique_ptr<RowScale> scale_;
  Tensor seen_;  // scaled
  std::shared_ptr<BlockLinear> substitute_;
  std::shared_ptr<Sequential> critic_;
};

void Alignment::train() {
  const AlignmentConfig& settings = context_.settings.alignment();
  const FeatureMoments wanted = feature_moments(std::span(&seen_, 1), context_.device);
  const Tensor covariance = substitute_->covariance_of(Var(seen_.to(context_.device))).value();
  Optimizer substitute_adam(substitute_->parameters(), adversarial_adam());
  Optimizer critic_adam(critic_->parameters(), adversarial_adam());
  LoaderOptions loading;
  loading.batch = std::min<int64_t>(settings.batch(), data_.count());
  loading.seed = rng_.next();
  loading.flip = true;
  Loader loader(data_, loading);
  const int64_t steps = settings.steps(), warm_up = steps / 8;
  Batch batch;
  loader.start(0);
  for (int64_t step = 0, epoch = 0; step < steps; ++step) {
    if (!loader.next(batch)) {
      loader.start(++epoch);
      loader.next(batch);
    }
    const int64_t n = batch.images.dim(0);
    const Tensor real = next_seen(n);
    const Var made = substitute(batch.images);
    Var loss =
        add(moment_loss(affine(made, 1 / wanted.scale, 0), wanted), kernel_discrepancy(made, real));
    loss = add(loss, affine(mse(substitute_->covariance_of(made), Var(covariance)), 100, 0));
    const float rate =
        std::min(1.0f, 2.0f - 2.0f * static_cast<float>(step) / static_cast<float>(steps));
    if (step >= warm_up) {
      teach_critic(real, made).backward();  // hinge loss (Lim and Ye, "Geometric GAN", 2017)
      critic_adam.step(kCriticRate * rate);
      require_gradients(*critic_, false);
      loss = sub(loss, mean(judge(made)));
    }
    if (!std::isfinite(loss.item())) {
      fail("the alignment diverged: its loss is not finite", "align",
           "try another seed, or a larger attack.alignment.batch");
    }
    loss.backward();
    require_gradients(*critic_, true);
    substitute_adam.step(step < warm_up ? kWarmUpRate : kSubstituteRate * rate);
    context_.report(n, fmt::format("substitute, loss {:.4f}", loss.item()));
  }
  substitute_->freeze();
}

class Align : public AttackOn<PublicView> {
 public:
  std::string name() const override { return "align"; }
  std::string title() const override { return "feature alignment"; }
  std::string not_applicable_reason(const DisguiseSetting& setting) const override {
    return BlockLinear::no_grid_reason(setting.image, setting.row);
  }
  AttackCost cost(const DisguiseSetting& setting, const AttackConfig& settings) const override {
    return {.nets = int64_t{settings.alignment().steps()} * settings.alignment().batch(),
            .decoders = setting.public_images * settings.decoder().epochs()};
  }

  std::vector<Reconstruction> run_on(const PublicView& view,
                                     const AttackContext& context) override {
    Alignment alignment(view, context);
    alignment.train();
    Reconstruction r;
    r.candidate = "substitute";
    r.images = alignment.decode(view.queries);
    return {r};
  }
};

}  // namespace

std::unique_ptr<DisguiseAttack> disguise_align_attack() { return std::make_unique<Align>(); }

}  // namespace ens
