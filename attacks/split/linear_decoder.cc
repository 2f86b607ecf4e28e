// SPDX-License-Identifier: Apache-2.0
// Ridge regression on the client's own features, with unlimited queries. Seconds of work, and so a
// check on the deep decoder of true features, which must not lose to it.
#include "attacks/core/linear_decoder.h"

#include "attacks/split/decoding.h"
#include "attacks/split/registry.h"

namespace ens {
namespace {

class LinearDecoderAttack : public AttackOn<BlackBoxView> {
 public:
  std::string name() const override { return "linear-decoder"; }
  std::string title() const override { return "linear decoder on true features"; }

  AttackCost cost(const SplitSetting& setting, const AttackConfig&) const override {
    return {.decoders =
                queried_pairs(setting.public_images, smashed_shape(setting.model, setting.split)) /
                kQueriesPerImage};
  }

  std::vector<Reconstruction> run_on(const BlackBoxView& view,
                                     const AttackContext& context) override {
    const auto [images, features] = query_pairs(view, context, view.public_data->count(), name());
    const LinearDecoder decoder(images, features, held_out_count(images.dim(0)), context.seed);
    Reconstruction r;
    r.candidate = "linear";
    r.images = decoder.decode(view.observed.to(Device{}).plain());
    return {r};
  }
};

}  // namespace

std::unique_ptr<SplitAttack> linear_decoder_attack() {
  return std::make_unique<LinearDecoderAttack>();
}

}  // namespace ens
