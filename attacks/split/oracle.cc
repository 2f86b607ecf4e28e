// SPDX-License-Identifier: Apache-2.0
// An inverse network on the client's own features (He et al., ACSAC 2019, section 4.3), with
// unlimited queries: what a decoder on true features reads.
#include <cmath>
#include <ctime>
#include <limits>
#include <numeric>

#include "attacks/core/metrics.h"
#include "attacks/split/decoding.h"
#include "attacks/split/registry.h"
#include "base/error.h"
#include "base/progress.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

class Oracle : public AttackOn<BlackBoxView> {
 public:
  std::string name() const override { return "oracle"; }
  std::string title() const override { return "decoder on true features"; }

  AttackCost cost(const SplitSetting& setting, const AttackConfig& settings) const override {
    const int64_t passes = training_images(setting) * settings.decoder().epochs();
    if (settings.tier() != "full") return {.decoders = passes};
    // Three losses; then, as if it took eight passes over all images, each doubling up to there and
    // the three that gain nothing: twice the training, twice the blocks, twice the channels.
    int64_t last = passes, all = 3 * passes;
    while (last < 8 * setting.training_images) all += last *= 2;
    return {.decoders = all + last * (2 + 2 + 4)};
  }

  std::vector<Reconstruction> run_on(const BlackBoxView& view,
                                     const AttackContext& context) override {
    if (!view.query || !view.query_data) {
      fail("the decoder needs the client's features", name(), "use a black-box view");
    }
    const PublicSplit data = split_public(*view.query_data);
    const Tensor held_out = images_of(data.held_out, 0, data.held_out.count());
    const Tensor held_out_features = view.query(held_out);
    const DecoderConfig& wanted = context.settings.decoder();
    DecoderRound start;
    start.loss = parse_decoder_loss(wanted.loss());
    start.size = {wanted.channels(), wanted.blocks()};
    start.images = std::min(data.train.count(), view.public_data->count() - data.held_out.count());
    start.epochs = wanted.epochs();
    Reconstruction r;
    r.candidate = "client's features";
    double best = -std::numeric_limits<double>::infinity();
    const auto train = [&](DecoderRound& round) {
      AttackContext sized = context;
      DecoderConfig& settings = *sized.settings.mutable_decoder();
      settings.set_loss(ens::name(round.loss));
      settings.set_channels(round.size.channels);
      settings.set_blocks(round.size.blocks);
      settings.set_epochs(static_cast<int>(round.epochs));
      // Larger decoders want smaller steps.
      const double growth = static_cast<double>(round.size.channels) * (round.size.blocks + 1) /
                            (static_cast<double>(start.size.channels) * (start.size.blocks + 1));
      settings.set_lr(settings.lr() / std::sqrt(growth));
      const std::clock_t began = std::clock();
      const auto decoder = train_decoder(view, sized, data.train.head(round.images), view.query,
                                         context.seed, name(), {.plain = view.recorded});
      round.cpu_seconds = static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC;
      round.steps =
          round.images / std::min<int64_t>(context.settings.batch(), round.images) * round.epochs;
      const Tensor decoded = decode(*decoder, view, context, held_out_features);
      const ImageScores scores = score_images(held_out, decoded);
      round.ssim = mean_of(scores.ssim);
      round.psnr = mean_of(scores.psnr);
      if (round.ssim <= best) return;
      best = round.ssim;
      r.images = decode(*decoder, view, context, view.observed);
      r.calibration_images = decoded;
    };
    if (context.settings.tier() == "full") {
      r.training = saturate(start, data.train.count(), [&](DecoderRound& round) {
        try {
          train(round);
        } catch (const Stopped&) {
          throw;
        } catch (const Error&) {  // one that diverges gains nothing; what was found stays
          if (!r.images.defined()) throw;
        }
      });
    } else {
      train(start);
      r.training.rounds = {start};
    }
    r.calibration_targets = held_out;
    return {r};
  }

 private:
  static double mean_of(const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  }
};

}  // namespace

std::unique_ptr<SplitAttack> oracle_attack() { return std::make_unique<Oracle>(); }

}  // namespace ens
