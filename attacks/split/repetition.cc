// SPDX-License-Identifier: Apache-2.0
// The client sends the same image m times, or near copies of it (a video, a retry): where its
// protection draws anew for each send, the mean over the sends holds less noise than one of them.
//
// For every m of attack.repetition.counts a decoder of true features, by unlimited queries, of the
// mean over m sends: a curve. The first is trained as attack.decoder says; each goes on from the
// one before it, for half the passes. The attacker knows how copies differ
// (attack.repetition.change), not by which shifts or noises.
#include <algorithm>

#include "attacks/split/decoding.h"
#include "attacks/split/grant.h"
#include "attacks/split/registry.h"
#include "base/error.h"
#include "nn/autograd/ops.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

class Repetition : public AttackOn<RepetitionView> {
 public:
  std::string name() const override { return "repetition"; }
  std::string title() const override { return "decoder on repeated sends"; }
  bool only_in_full_tier() const override { return true; }
  std::string not_applicable_reason(const SplitSetting& setting) const override {
    return setting.draws_anew ? "" : "the client sends the same image the same way each time";
  }

  AttackCost cost(const SplitSetting& setting, const AttackConfig& settings) const override {
    const int64_t images = training_images(setting);
    int64_t epochs = settings.decoder().epochs(), images_in_all = 0;
    for (const int64_t m : counts_of(settings)) {
      images_in_all += images * epochs + images * epochs * m / kQueriesPerImage;
      epochs = later_epochs(settings.decoder().epochs());
    }
    return {.decoders = images_in_all};
  }

  std::vector<Reconstruction> run_on(const RepetitionView& view,
                                     const AttackContext& context) override {
    if (!view.resend) fail("nothing is sent twice", name(), "use a view with repeated sends");
    const std::string& change = context.settings.repetition().change();
    const PublicSplit data = split_public(*view.public_data);
    const Tensor held_out = images_of(data.held_out, 0, data.held_out.count());
    Rng rng(context.seed, name());
    // The mean feature of images [B,...] over m sends.
    const auto features = [&](const Tensor& images, int64_t m) {
      const uint64_t seed = rng.next();
      context.report(images.dim(0) * m / kQueriesPerImage, "sending");
      return mean_over(m, [&](int64_t copy) {
        return view.query(copy == 0 ? images : changed_copy(images, change, copy, seed));
      });
    };
    AttackContext sized = context;
    std::shared_ptr<Decoder> decoder;
    std::vector<Reconstruction> curve;
    for (const int64_t m : counts_of(context.settings)) {
      const std::string label = "m = " + std::to_string(m);
      if (decoder) {
        DecoderConfig& settings = *sized.settings.mutable_decoder();
        settings.set_epochs(later_epochs(context.settings.decoder().epochs()));
        settings.set_lr(context.settings.decoder().lr() / 2);
      }
      decoder = train_decoder(view, sized, data.train,
                              [&](const Tensor& images) { return features(images, m); }, rng.next(),
                              label, {.start = decoder.get()});
      Reconstruction r;
      r.candidate = label;
      r.x = static_cast<double>(m);
      r.images = decode(*decoder, view, context, mean_over(m, [&](int64_t copy) {
        return copy == 0 ? view.observed : view.resend(copy);
      }));
      r.calibration_targets = held_out;
      r.calibration_images = decode(*decoder, view, context, features(held_out, m));
      curve.push_back(std::move(r));
    }
    return curve;
  }

 private:
  static std::vector<int64_t> counts_of(const AttackConfig& settings) {
    const auto& given = settings.repetition().counts();
    std::vector<int64_t> counts(given.begin(), given.end());
    std::erase_if(counts, [](int64_t m) { return m < 1; });
    if (counts.empty()) counts = {1, 4, 16, 64};
    std::ranges::sort(counts);
    counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
    return counts;
  }
  static int later_epochs(int epochs) { return std::max(epochs / 2, 1); }

  // The mean of send(0) .. send(m - 1).
  static Tensor mean_over(int64_t m, const std::function<Tensor(int64_t copy)>& send) {
    NoGrad no_grad;
    Var sum(send(0));
    for (int64_t copy = 1; copy < m; ++copy) sum = add(sum, Var(send(copy)));
    return affine(sum, 1.0f / static_cast<float>(m), 0).value();
  }
};

}  // namespace

std::unique_ptr<SplitAttack> repetition_attack() { return std::make_unique<Repetition>(); }

}  // namespace ens
