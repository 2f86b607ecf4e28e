// One shadow for each server net (arXiv 2401.10859, section 4): N candidates.
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

  int64_t cost_in_images(const SplitSetting& setting, const AttackConfig& settings) const override {
    return shadow_cost(setting, settings, setting.nets, setting.nets);
  }

  std::vector<Reconstruction> run_on(const QueryFreeView& view,
                                     const AttackContext& context) override {
    const PublicSplit data = split_public(*view.public_data);
    std::vector<Reconstruction> all(view.bodies.size());
    run_parallel(
        static_cast<int>(all.size()), 0,
        [&](int i) {
          all[static_cast<size_t>(i)] =
              shadow_reconstruction(view, context, data, {i}, false, subset_name({i}));
        },
        context.device);
    return all;
  }
};

}  // namespace

std::unique_ptr<SplitAttack> shadow_n1_attack() { return std::make_unique<ShadowN1>(); }

}  // namespace ens
