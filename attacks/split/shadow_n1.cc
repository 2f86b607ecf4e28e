// SPDX-License-Identifier: Apache-2.0
// One shadow for each server net (arXiv 2401.10859, section 4): N shadows, of which the attacker
// decodes through the most plausible, or through all.
#include "attacks/split/registry.h"
#include "attacks/split/shadow.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

class ShadowN1 : public AttackOn<QueryFreeView> {
 public:
  std::string name() const override { return "shadow-n1"; }
  std::string title() const override { return "shadow + decoder, N=1"; }
  bool trains_through_bodies() const override { return true; }

  AttackCost cost(const SplitSetting& setting, const AttackConfig& settings) const override {
    return shadow_cost(setting, settings, setting.nets, decoded_candidates(settings, setting.nets));
  }

  std::vector<Reconstruction> run_on(const QueryFreeView& view,
                                     const AttackContext& context) override {
    std::vector<std::vector<int>> each;
    for (int i = 0; i < std::ssize(view.bodies); ++i) each.push_back({i});
    return shadow_reconstructions(view, context, split_public(*view.public_data), each);
  }
};

}  // namespace

std::unique_ptr<SplitAttack> shadow_n1_attack() { return std::make_unique<ShadowN1>(); }

}  // namespace ens
