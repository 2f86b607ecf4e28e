// SPDX-License-Identifier: Apache-2.0
// One shadow over the client's secret subset of the server nets, or over attack.shadow_subset.nets:
// what is the secrecy of the subset worth?
#include <algorithm>

#include "attacks/split/registry.h"
#include "attacks/split/shadow.h"
#include "base/error.h"

namespace ens {
namespace {

class ShadowSubset : public AttackOn<SubsetView> {
 public:
  std::string name() const override { return "shadow-subset"; }
  std::string title() const override {
    return chosen_ ? "shadow + decoder, chosen subset"
                   : "shadow + decoder, the secret subset known";
  }
  bool trains_through_bodies() const override { return true; }
  std::string not_applicable_reason(const SplitSetting& setting) const override {
    return one_net_only(setting);
  }

  AttackCost cost(const SplitSetting& setting, const AttackConfig& settings) const override {
    const int chosen = settings.shadow_subset().nets_size();
    return shadow_cost(setting, settings, chosen > 0 ? chosen : setting.selected, 1);
  }

  std::vector<Reconstruction> run_on(const SubsetView& view,
                                     const AttackContext& context) override {
    const auto& given = context.settings.shadow_subset().nets();
    chosen_ = !given.empty();
    const std::vector<int> nets =
        checked(chosen_ ? std::vector<int>(given.begin(), given.end()) : view.subset,
                static_cast<int>(view.bodies.size()));
    // The secret subset is not named: candidates' names reach logs and reports.
    return {shadow_reconstruction(view, context, split_public(*view.public_data), nets, false,
                                  chosen_ ? subset_name(nets) : "the secret nets")};
  }

 private:
  static std::vector<int> checked(std::vector<int> nets, int count) {
    if (nets.empty()) {
      fail("the view grants no subset", "shadow-subset", "set attack.shadow_subset.nets");
    }
    std::ranges::sort(nets);
    if (nets.front() < 0 || nets.back() >= count ||
        std::ranges::adjacent_find(nets) != nets.end()) {
      usage_fail("not a subset of " + std::to_string(count) + " server nets",
                 "attack.shadow_subset.nets",
                 "give different indices from 0 to " + std::to_string(count - 1));
    }
    return nets;
  }

  bool chosen_ = false;
};

}  // namespace

std::unique_ptr<SplitAttack> shadow_subset_attack() { return std::make_unique<ShadowSubset>(); }

}  // namespace ens
