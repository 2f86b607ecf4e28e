// SPDX-License-Identifier: Apache-2.0
// Operators who share what they have. The server nets are spread over K operators, in shards of
// equal size; c of them train one shadow (shadow.h) over the nets of their shards, for c = 1 .. K:
// a curve. Which shards they hold is drawn. All of them see the same feature, so that this says
// what spreading the nets is worth, not what splitting the feature would be.
#include <algorithm>

#include "attacks/split/registry.h"
#include "attacks/split/shadow.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

class Coalition : public AttackOn<QueryFreeView> {
 public:
  std::string name() const override { return "coalition"; }
  std::string title() const override { return "shadow + decoder, coalition of shards"; }
  bool trains_through_bodies() const override { return true; }
  bool only_in_full_tier() const override { return true; }
  std::string not_applicable_reason(const SplitSetting& setting) const override {
    return one_net_only(setting);
  }

  AttackCost cost(const SplitSetting& setting, const AttackConfig& settings) const override {
    const int shards = shards_of(setting.nets, settings);
    int64_t net_passes = 0;  // larger shards first: at least as much as any draw
    for (int c = 1; c <= shards; ++c) net_passes += (setting.nets * c + shards - 1) / shards;
    return shadow_cost(setting, settings, net_passes, shards);
  }

  std::vector<Reconstruction> run_on(const QueryFreeView& view,
                                     const AttackContext& context) override {
    const int nets = static_cast<int>(view.bodies.size());
    const int shards = shards_of(nets, context.settings);
    const PublicSplit data = split_public(*view.public_data);
    const std::vector<int64_t> order = Rng(context.seed, name()).permutation(shards);
    std::vector<Reconstruction> curve;
    std::vector<int> held;
    for (int c = 1; c <= shards; ++c) {
      const int shard = static_cast<int>(order[static_cast<size_t>(c) - 1]);
      for (int net = nets * shard / shards; net < nets * (shard + 1) / shards; ++net) {
        held.push_back(net);
      }
      std::ranges::sort(held);
      const std::string candidate =
          "c = " + std::to_string(c) + " of " + std::to_string(shards) + ": " + subset_name(held);
      curve.push_back(shadow_reconstruction(view, context, data, held, held.size() > 1, candidate));
      curve.back().x = c;
    }
    return curve;
  }

 private:
  static int shards_of(int nets, const AttackConfig& settings) {
    return std::min(settings.coalition().shards(), nets);
  }
};

}  // namespace

std::unique_ptr<SplitAttack> coalition_attack() { return std::make_unique<Coalition>(); }

}  // namespace ens
