// SPDX-License-Identifier: Apache-2.0
// Regularised maximum likelihood on the client's own head and protection.
#include "attacks/split/registry.h"
#include "attacks/split/rmle.h"

namespace ens {
namespace {

class RmleWhite : public AttackOn<WhiteBoxView> {
 public:
  std::string name() const override { return "rmle-white"; }
  std::string title() const override { return "rMLE on the client's head"; }

  AttackCost cost(const SplitSetting& setting, const AttackConfig& settings) const override {
    return {.nets = setting.scored_images * settings.rmle().iterations()};
  }

  std::vector<Reconstruction> run_on(const WhiteBoxView& view,
                                     const AttackContext& context) override {
    Reconstruction r;
    r.candidate = "client's head";
    r.images = rmle(client_features(view, name()), view.observed, view, context, name());
    return {r};
  }
};

}  // namespace

std::unique_ptr<SplitAttack> rmle_white_attack() { return std::make_unique<RmleWhite>(); }

}  // namespace ens
