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
    const int64_t groups = share[0], size = share.numel() / groups;
    Rng rng(context.seed, "share-ica");
    Reconstruction r;
    r.candidate = "independent components";
    r.images = Tensor::empty({view.inputs * groups, share[1], share[2], share[3]});
    for (int64_t g = 0; g < groups; ++g) {
      Tensor mixtures = Tensor::empty({std::ssize(view.observed), share[1], share[2], share[3]});
      for (int64_t s = 0; s < mixtures.dim(0); ++s) {
        mixtures.rows(s, 1).copy_from(view.observed[static_cast<size_t>(s)].rows(g, 1));
      }
      const Tensor images =
          components_to_images(separate(mixtures, view.noises, true, rng), view.coding, true);
      for (int64_t k = 0; k < view.inputs; ++k) {
        std::copy_n(images.data<float>() + k * size, size,
                    r.images.data<float>() + (k * groups + g) * size);
      }
      context.report(0, "virtual batch " + std::to_string(g + 1) + " of " + std::to_string(groups));
    }
    r.images = r.images.rows(0, view.images);
    return {r};
  }
};

}  // namespace

std::unique_ptr<ShareAttack> share_ica_attack() { return std::make_unique<ShareIca>(); }

}  // namespace ens
