// SPDX-License-Identifier: Apache-2.0
#include "attacks/split/alignment.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "attacks/split/decoding.h"
#include "attacks/split/registry.h"
#include "attacks/split/substitute.h"
#include "base/error.h"
#include "nn/core/backend.h"
#include "nn/data/loader.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

// Peak rates of Adam (betas 0.5 and 0.9, as usual for adversaries).
constexpr float kWarmUpRate = 2e-3f, kSubstituteRate = 1.5e-3f, kCriticRate = 3e-4f;
// Images of each batch that pass through the server nets, for the shadow term.
constexpr int64_t kShadowBatch = 64;

// ---- one restart

class Alignment {
 public:
  Alignment(const TrafficView& view, const AttackContext& context, const PublicSplit& data,
            bool with_shadow, std::string part)
      : view_(view),
        context_(context),
        data_(data),
        with_shadow_(with_shadow),
        candidate_(std::move(part)),
        rng_(context.seed, "alignment/" + candidate_),
        substitute_(view, context, data, candidate_, rng_),
        critic_(build_critic(smashed_shape(view.model, view.split), rng_)) {
    critic_->to(context.device);
  }

  // Images through networks, as train() reports them.
  static int64_t cost_in_images(const SplitSetting& setting, const AttackConfig& settings,
                                bool with_shadow) {
    const int64_t images = training_images(setting), nets = setting.nets;
    const int64_t batch = std::min<int64_t>(settings.alignment().batch(), images);
    return settings.alignment().steps() *
               (batch + (with_shadow ? nets * std::min(batch, kShadowBatch) : 0)) +
           Substitute::cost_in_images(setting, kCheckpoints);
  }

  // Trains the substitute.
  void train();
  // The attacker's own criterion of it, without the truth: higher is better.
  double criterion() { return substitute_.criterion(); }

  Reconstruction decode_through() {
    const auto features = [&](const Tensor& images) { return substitute_.features(images); };
    Reconstruction r;
    r.candidate = candidate_;
    auto decoder = train_decoder(view_, context_, data_.train, features, rng_.next(), candidate_,
                                 {.capture = substitute_.polarity() == Polarity::kAsIs &&
                                             !view_.channel});  // whose noise is of the host
    r.images = decode(*decoder, view_, context_, view_.observed);
    r.calibration_targets = images_of(data_.held_out, 0, data_.held_out.count());
    r.calibration_images = decode(*decoder, view_, context_, features(r.calibration_targets));
    return r;
  }

 private:
  // How often the polarity is chosen anew: when `step` of `steps` are done, and after the last.
  static constexpr int kCheckpoints = 5;
  static bool is_checkpoint_step(int64_t step, int64_t steps) {
    return step == steps / 8 || step == steps / 2 || step == steps * 3 / 4 || step == steps * 7 / 8;
  }

  void report(int64_t images, const std::string& note) const {
    context_.report(images, candidate_ + ": " + note);
  }

  void train_substitute();

  const TrafficView& view_;
  const AttackContext& context_;
  const PublicSplit& data_;
  const bool with_shadow_;
  const std::string candidate_;
  Rng rng_;
  Substitute substitute_;
  std::shared_ptr<Sequential> critic_;
};

void Alignment::train() {
  train_substitute();
  substitute_.freeze();
  substitute_.choose_polarity(0);  // the criterion is at its surest now
}

void Alignment::train_substitute() {
  ObservedFeatureSampler sampler(view_, rng_.next());
  const FeatureMoments wanted = feature_moments(sampler.parts(), context_.device);
  const float to_unit = 1.0f / wanted.scale;
  substitute_.set_size(wanted);
  Optimizer substitute_adam(substitute_.parameters(), adversarial_adam());
  Optimizer critic_adam(critic_->parameters(), adversarial_adam());
  ShadowTail tail(view_, context_.device, rng_);
  OptimSpec plain_adam;
  plain_adam.kind = OptimSpec::Kind::kAdam;
  Optimizer tail_adam(tail.parameters(), plain_adam);

  ImageSampler images(data_.train,
                      std::min<int64_t>(context_.settings.alignment().batch(), data_.train.count()),
                      rng_.next());
  const int64_t steps = context_.settings.alignment().steps(), warm_up = steps / 8;
  for (int64_t step = 0; step < steps; ++step) {
    if (is_checkpoint_step(step, steps)) substitute_.choose_polarity(kPolarityMargin);
    const Batch& batch = images.next();
    const int64_t n = batch.images.dim(0);
    const Tensor real =
        backend(context_.device)
            .unary(UnaryOp::kAffine, sampler.next(n).to(context_.device), to_unit, 0);
    const Var raw = substitute_.forward(batch.images);
    const Var z = affine(raw, to_unit, 0);
    Var loss = add(moment_loss(z, wanted), kernel_discrepancy(z, real));
    // Constant, then falling to nothing over the second half.
    const float rate =
        std::min(1.0f, 2.0f - 2.0f * static_cast<float>(step) / static_cast<float>(steps));
    std::string note = "moments " + std::to_string(loss.item()).substr(0, 5);
    if (step >= warm_up) {
      // Hinge loss (Lim and Ye, "Geometric GAN", 2017).
      const auto judge = [&](const Var& f) {
        return cast(critic_->forward(cast(f, context_.dtype)), Dtype::kF32);
      };
      const Var critic_loss = add(mean(relu(affine(judge(Var(real)), -1, 1))),
                                  mean(relu(affine(judge(z.detach()), 1, 1))));
      critic_loss.backward();
      critic_adam.step(kCriticRate * rate);
      require_gradients(*critic_, false);
      loss = sub(loss, mean(judge(z)));
      note = "critic " + std::to_string(critic_loss.item()).substr(0, 5);
    }
    if (with_shadow_) {
      const int64_t some = std::min(n, kShadowBatch);
      const Var scores =
          tail.forward(server_outputs(view_, context_.dtype, slice(raw, 0, 0, some)));
      const Var entropy =
          softmax_cross_entropy(scores, batch.labels.rows(0, some).to(context_.device));
      loss = add(loss, entropy);
      note += ", cross-entropy " + std::to_string(entropy.item()).substr(0, 5);
      report(some * static_cast<int64_t>(view_.bodies.size()), note);
    }
    if (!std::isfinite(loss.item())) {
      fail("the alignment diverged: its loss is not finite", candidate_,
           "try another seed, or a larger attack.alignment.batch");
    }
    loss.backward();
    require_gradients(*critic_, true);
    substitute_adam.step(step < warm_up ? kWarmUpRate : kSubstituteRate * rate);
    if (with_shadow_) tail_adam.step(1e-3f * rate);
    report(n, note);
  }
}

class AlignmentAttack : public AttackOn<TrafficView> {
 public:
  explicit AlignmentAttack(bool with_shadow) : with_shadow_(with_shadow) {}
  std::string name() const override { return with_shadow_ ? "alignment-shadow" : "alignment"; }
  std::string title() const override {
    return with_shadow_ ? "alignment + shadow cross-entropy" : "feature alignment";
  }

  AttackCost cost(const SplitSetting& setting, const AttackConfig& settings) const override {
    const int restarts = settings.alignment().restarts();
    return {.nets = restarts * Alignment::cost_in_images(setting, settings, with_shadow_),
            .decoders = decoded_candidates(settings, restarts) * training_images(setting) *
                        settings.decoder().epochs()};
  }

  std::vector<Reconstruction> run_on(const TrafficView& view,
                                     const AttackContext& context) override {
    require_traffic(view, name());
    const PublicSplit data = split_public(*view.public_data);
    const int restarts = context.settings.alignment().restarts();
    std::vector<std::unique_ptr<Alignment>> trained(static_cast<size_t>(restarts));
    std::vector<double> merits(trained.size());
    run_parallel(
        restarts, 0,
        [&](int i) {
          const auto at = static_cast<size_t>(i);
          trained[at] = std::make_unique<Alignment>(view, context, data, with_shadow_,
                                                    "restart " + std::to_string(i + 1));
          trained[at]->train();
          merits[at] = trained[at]->criterion();
        },
        context.device);
    const std::vector<size_t> best =
        best_of(merits, decoded_candidates(context.settings, restarts));
    std::vector<Reconstruction> all(best.size());
    run_parallel(
        static_cast<int>(best.size()), 0,
        [&](int i) {
          Reconstruction& r = all[static_cast<size_t>(i)];
          r = trained[best[static_cast<size_t>(i)]]->decode_through();
          r.self_score = merits[best[static_cast<size_t>(i)]];
        },
        context.device);
    return all;
  }

 private:
  bool with_shadow_;
};

}  // namespace

std::unique_ptr<SplitAttack> alignment_attack(bool with_shadow) {
  return std::make_unique<AlignmentAttack>(with_shadow);
}

std::unique_ptr<SplitAttack> alignment_attack() { return alignment_attack(false); }

}  // namespace ens
