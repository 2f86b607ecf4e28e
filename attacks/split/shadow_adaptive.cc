// SPDX-License-Identifier: Apache-2.0
// One shadow over all server nets at once, their outputs weighted by a trainable selector (arXiv
// 2401.10859, section 4).
#include <numeric>

#include "attacks/split/registry.h"
#include "attacks/split/shadow.h"

namespace ens {
namespace {

class ShadowAdaptive : public AttackOn<QueryFreeView> {
 public:
  std::string name() const override { return "shadow-adaptive"; }
  std::string title() const override { return "shadow + decoder, adaptive"; }
  bool trains_through_bodies() const override { return true; }
  std::string not_applicable_reason(const SplitSetting& setting) const override {
    return one_net_only(setting);
  }

  AttackCost cost(const SplitSetting& setting, const AttackConfig& settings) const override {
    return shadow_cost(setting, settings, setting.nets, 1);
  }

  std::vector<Reconstruction> run_on(const QueryFreeView& view,
                                     const AttackContext& context) override {
    std::vector<int> nets(view.bodies.size());
    std::iota(nets.begin(), nets.end(), 0);
    return {shadow_reconstruction(view, context, split_public(*view.public_data), nets, true,
                                  "all nets")};
  }
};

}  // namespace

std::unique_ptr<SplitAttack> shadow_adaptive_attack() { return std::make_unique<ShadowAdaptive>(); }

}  // namespace ens
