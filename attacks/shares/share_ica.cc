// SPDX-License-Identifier: Apache-2.0
#include "attacks/shares/separation.h"
#include "base/error.h"

namespace ens {
namespace {

class ShareIca : public ShareAttack {
 public:
  std::string name() const override { return "share-ica"; }
  std::string title() const override { return "independent components of the shares"; }
  AttackCost cost(const ShareSetting&, const AttackConfig&) const override { return {}; }
  std::string not_applicable_reason(const ShareSetting& setting) const override {
    if (setting.shares >= setting.inputs + setting.noises) return "";
    return "fewer shares than images and noises that are mixed in them";
  }

  std::vector<Reconstruction> run_on(const WorkerView& view,
                                     const AttackContext& context) override {
    if (view.code) fail("the shares are residues", name(), "use share-lattice");
    const Shape share = view.observed.at(0).shape();
    Rng rng(context.seed, "share-ica");
    Reconstruction r;
    r.candidate = "independent components";
    r.images = from_virtual_batches(view, context, [&](int64_t g) {
      Tensor mixtures = Tensor::empty({std::ssize(view.observed), share[1], share[2], share[3]});
      for (int64_t s = 0; s < mixtures.dim(0); ++s) {
        mixtures.rows(s, 1).copy_from(view.observed[static_cast<size_t>(s)].rows(g, 1));
      }
      return components_to_images(separate(mixtures, view.noises, true, rng), view.coding, true);
    });
    return {r};
  }
};

}  // namespace

std::unique_ptr<ShareAttack> share_ica_attack() { return std::make_unique<ShareIca>(); }

}  // namespace ens
