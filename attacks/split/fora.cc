// SPDX-License-Identifier: Apache-2.0
// FORA, query-free ("A Stealthy Wrecking Ball: Feature-Oriented Reconstruction Attack", CVPR 2024):
// a substitute head is trained by a Wasserstein critic with gradient penalty (WGAN-GP) and the
// maximum mean discrepancy of several kernels until its features are distributed like the client's;
// a decoder of its features reads those. As in SDAR ("Passive Inference Attacks on Split Learning",
// NDSS 2025) a second critic draws what the decoder makes of the client's features to the look of
// images. alignment.h also matches moments; here nothing but the critic and the kernels does.
//
// Of several substitutes, the one whose features the server nets classify best (Substitute's
// criterion, which settles the polarity too) gets a decoder.
#include <algorithm>
#include <cmath>
#include <limits>

#include "attacks/split/registry.h"
#include "attacks/split/substitute.h"
#include "base/error.h"
#include "nn/autograd/ops.h"
#include "nn/core/backend.h"
#include "nn/data/loader.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

// When the polarity is chosen anew.
constexpr int kChoices = 3;
bool chooses_polarity(int64_t step, int64_t steps) {
  return step == steps / 4 || step == steps / 2 || step == steps * 3 / 4;
}

struct Plan {
  int64_t steps, batch, images;
  float lr, critic_lr;

  Plan(const AttackConfig& settings, int64_t training_images) {
    constexpr int64_t kSteps = 40000, kQuickSteps = 1200;
    constexpr double kRate = 1e-4;
    const ForaConfig& own = settings.fora();
    images = std::min(own.images(), training_images);
    batch = std::min<int64_t>(own.batch(), images);
    steps = own.steps() > 0 ? own.steps() : settings.tier() == "full" ? kSteps : kQuickSteps;
    const double ratio = static_cast<double>(kSteps) / static_cast<double>(steps);
    lr = static_cast<float>(own.lr() > 0 ? own.lr() : kRate * std::sqrt(std::max(ratio, 1.0)));
    critic_lr = static_cast<float>(own.critic_lr());
  }
};

// Trains `substitute` on data.train.
void align(Substitute& substitute, const TrafficView& view, const AttackContext& context,
           const PublicSplit& data, const Plan& plan, const std::string& candidate, Rng& rng) {
  const auto critic = build_critic(smashed_shape(view.model, view.split), rng);
  critic->to(context.device);
  ObservedFeatureSampler sampler(view, rng.next());
  const FeatureMoments wanted = feature_moments(sampler.parts(), context.device);
  const float to_unit = 1.0f / wanted.scale;
  substitute.set_size(wanted);
  Optimizer substitute_adam(substitute.parameters(), adversarial_adam());
  Optimizer critic_adam(critic->parameters(), adversarial_adam());
  ImageSampler images(data.train, plan.batch, rng.next());
  const auto penalty_weight = static_cast<float>(context.settings.fora().gradient_penalty());
  for (int64_t step = 0; step < plan.steps; ++step) {
    if (chooses_polarity(step, plan.steps)) substitute.choose_polarity(kPolarityMargin);
    const Batch& batch = images.next();
    const int64_t n = batch.images.dim(0);
    const Tensor real =
        backend(context.device)
            .unary(UnaryOp::kAffine, sampler.next(n).to(context.device), to_unit, 0);
    const Var z = affine(substitute.forward(batch.images), to_unit, 0);
    const Var gap = sub(mean(critic->forward(Var(real))), mean(critic->forward(z.detach())));
    const Var penalty = gradient_penalty(*critic, real, z.value(), rng);
    sub(affine(penalty, penalty_weight, 0), gap).backward();
    critic_adam.step(plan.critic_lr);
    require_gradients(*critic, false);
    const Var kernels = kernel_discrepancy(z, real);
    const Var loss = sub(kernels, mean(critic->forward(z)));
    if (!std::isfinite(loss.item())) {
      fail("the alignment diverged: its loss is not finite", candidate,
           "try another seed, or a smaller attack.fora.lr");
    }
    loss.backward();
    require_gradients(*critic, true);
    // Constant, then falling to nothing over the second half.
    const float rate =
        std::min(1.0f, 2.0f - 2.0f * static_cast<float>(step) / static_cast<float>(plan.steps));
    substitute_adam.step(plan.lr * rate);
    context.report(n, candidate + ": Wasserstein distance " +
                          std::to_string(gap.item()).substr(0, 5) + ", kernels " +
                          std::to_string(kernels.item()).substr(0, 6));
  }
  substitute.choose_polarity(0);
  substitute.freeze();
}

// A critic of images and what it adds to the decoder's loss (hinge loss, as alignment.cc).
class ImageCritic {
 public:
  ImageCritic(const TrafficView& view, const AttackContext& context, float lr, Rng& rng)
      : context_(context),
        critic_(build_critic(view.model.input_shape(), rng)),
        sampler_(view, rng.next()),
        lr_(lr) {
    critic_->to(context.device);
    adam_ = std::make_unique<Optimizer>(critic_->parameters(), adversarial_adam());
  }

  Var operator()(Decoder& decoder, const Tensor& images) {
    const Tensor z = sampler_.next(images.dim(0)).to(context_.device).to(context_.dtype);
    const Var decoded = cast(decoder.forward(Var(z)), Dtype::kF32);
    const Var loss = add(mean(relu(affine(critic_->forward(Var(images)), -1, 1))),
                         mean(relu(affine(critic_->forward(decoded.detach()), 1, 1))));
    adam_->zero_grad();  // of what the decoder's step left
    loss.backward();
    adam_->step(lr_);
    const Var real_looking = mean(critic_->forward(decoded));
    return affine(real_looking, -static_cast<float>(context_.settings.fora().image_critic()), 0);
  }

 private:
  const AttackContext& context_;
  std::shared_ptr<Sequential> critic_;
  ObservedFeatureSampler sampler_;
  const float lr_;
  std::unique_ptr<Optimizer> adam_;
};

class Fora : public AttackOn<TrafficView> {
 public:
  std::string name() const override { return "fora"; }
  std::string title() const override { return "FORA"; }
  bool only_in_full_tier() const override { return true; }

  AttackCost cost(const SplitSetting& setting, const AttackConfig& settings) const override {
    const Plan plan(settings, training_images(setting));
    return {.nets = settings.fora().restarts() *
                    (plan.steps * plan.batch + Substitute::cost_in_images(setting, kChoices + 1)),
            .decoders = plan.images * settings.decoder().epochs()};
  }

  std::vector<Reconstruction> run_on(const TrafficView& view,
                                     const AttackContext& context) override {
    require_traffic(view, name());
    PublicSplit data = split_public(*view.public_data);
    const Plan plan(context.settings, data.train.count());
    data.train = data.train.head(plan.images);
    const auto count = static_cast<size_t>(context.settings.fora().restarts());
    std::vector<std::unique_ptr<Substitute>> substitutes(count);
    std::vector<double> scores(count);
    run_parallel(
        static_cast<int>(count), 0,
        [&](int i) {
          const auto at = static_cast<size_t>(i);
          const std::string candidate = "restart " + std::to_string(i + 1);
          Rng rng(context.seed, "fora/" + candidate);
          substitutes[at] = std::make_unique<Substitute>(view, context, data, candidate, rng);
          align(*substitutes[at], view, context, data, plan, candidate, rng);
          scores[at] = substitutes[at]->criterion();
        },
        context.device);
    const auto best = std::ranges::max_element(scores) - scores.begin();
    Substitute& substitute = *substitutes[static_cast<size_t>(best)];
    const auto features = [&](const Tensor& images) { return substitute.features(images); };
    Reconstruction r;
    r.candidate = "restart " + std::to_string(best + 1);
    r.self_score = scores[static_cast<size_t>(best)];
    Rng rng(context.seed, "fora decoder");
    DecoderTraining how;
    if (context.settings.fora().image_critic() > 0) {
      how.penalty = [critic = std::make_shared<ImageCritic>(view, context, plan.critic_lr, rng)](
                        Decoder& decoder, const Tensor& images) {
        return (*critic)(decoder, images);
      };
    }
    const auto decoder =
        train_decoder(view, context, data.train, features, rng.next(), r.candidate, how);
    r.images = decode(*decoder, view, context, view.observed);
    r.calibration_targets = images_of(data.held_out, 0, data.held_out.count());
    r.calibration_images = decode(*decoder, view, context, features(r.calibration_targets));
    return {r};
  }
};

}  // namespace

std::unique_ptr<SplitAttack> fora_attack() { return std::make_unique<Fora>(); }

}  // namespace ens
