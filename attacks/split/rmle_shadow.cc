// SPDX-License-Identifier: Apache-2.0
// Regularised maximum likelihood on a shadow head, trained with all server nets.
#include <numeric>

#include "attacks/split/registry.h"
#include "attacks/split/rmle.h"
#include "attacks/split/shadow.h"

namespace ens {
namespace {

class RmleShadow : public AttackOn<QueryFreeView> {
 public:
  std::string name() const override { return "rmle-shadow"; }
  std::string title() const override { return "rMLE on a shadow head"; }
  bool trains_through_bodies() const override { return true; }

  AttackCost cost(const SplitSetting& setting, const AttackConfig& settings) const override {
    return {.nets = shadow_passes(settings, training_images(setting)) * setting.nets +
                    setting.scored_images * settings.rmle().iterations()};
  }

  std::vector<Reconstruction> run_on(const QueryFreeView& view,
                                     const AttackContext& context) override {
    const PublicSplit data = split_public(*view.public_data);
    std::vector<int> nets(view.bodies.size());
    std::iota(nets.begin(), nets.end(), 0);
    const TrainedShadow shadow =
        train_shadow(view, context, data, nets, /*weighted=*/nets.size() > 1, name());
    Reconstruction r;
    r.candidate = "shadow of all nets";
    r.shadow_accuracy = shadow.accuracy;
    r.images = rmle(shadow.mean_features, view.observed, view, context, name());
    return {r};
  }
};

}  // namespace

std::unique_ptr<SplitAttack> rmle_shadow_attack() { return std::make_unique<RmleShadow>(); }

}  // namespace ens
