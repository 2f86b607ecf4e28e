// SPDX-License-Identifier: Apache-2.0
// The mean of the public images of the true class: what who knows the class has without a feature.
// The cloud learns the class, since it computes it.
#include <algorithm>

#include "attacks/split/mean_image.h"
#include "attacks/split/registry.h"
#include "base/error.h"

namespace ens {
namespace {

class ClassMean : public AttackOn<LabelView> {
 public:
  std::string name() const override { return "class-mean"; }
  std::string title() const override { return "mean public image of the class (floor)"; }
  AttackCost cost(const SplitSetting&, const AttackConfig&) const override { return {}; }

  std::vector<Reconstruction> run_on(const LabelView& view, const AttackContext&) override {
    if (std::ssize(view.labels) != view.scored_images) {
      fail("needs the class of each image", name(), "use a view with labels");
    }
    Reconstruction r;
    r.candidate = "class mean";
    r.images = Tensor::empty(batched(view.scored_images, view.model.input_shape()));
    std::vector<std::vector<float>> means(static_cast<size_t>(view.model.classes));
    for (int64_t i = 0; i < view.scored_images; ++i) {
      const int32_t label = view.labels[static_cast<size_t>(i)];
      std::vector<float>& mean = means.at(static_cast<size_t>(label));
      if (mean.empty()) mean = mean_image(*view.public_data, label);
      std::ranges::copy(mean, r.images.rows(i, 1).data<float>());
    }
    return {r};
  }
};

}  // namespace

std::unique_ptr<SplitAttack> class_mean_attack() { return std::make_unique<ClassMean>(); }

}  // namespace ens
