// SPDX-License-Identifier: Apache-2.0
// The public image nearest to each true one: what log2 of the number of public images in bits about
// an image are worth, 13 for 10,000. An attack that scores no higher has read no more than that.
#include "attacks/split/registry.h"
#include "base/error.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

class NearestPublic : public AttackOn<NearestView> {
 public:
  std::string name() const override { return "nearest-public"; }
  std::string title() const override { return "nearest public image (floor)"; }
  AttackCost cost(const SplitSetting&, const AttackConfig&) const override { return {}; }

  std::vector<Reconstruction> run_on(const NearestView& view, const AttackContext&) override {
    if (std::ssize(view.nearest) != view.scored_images) {
      fail("needs the number of a public image for each image", name(), "use a view with them");
    }
    Reconstruction r;
    r.candidate = "nearest public image";
    r.images = images_of(view.public_data->pick(view.nearest), 0, view.scored_images);
    return {r};
  }
};

}  // namespace

std::unique_ptr<SplitAttack> nearest_public_attack() { return std::make_unique<NearestPublic>(); }

}  // namespace ens
