// SPDX-License-Identifier: Apache-2.0
// Was this disguised row in the training set? A network that has learned its rows by heart has a
// smaller loss on them than on others (Yeom et al., "Privacy Risk in Machine Learning", CSF 2018).
// It needs no key, and a disguise changes nothing about it.
#include <algorithm>
#include <cmath>

#include "attacks/disguise/model.h"
#include "attacks/disguise/registry.h"
#include "base/error.h"

namespace ens {
namespace {

class Membership : public AttackOn<MembershipView> {
 public:
  std::string name() const override { return "membership"; }
  std::string title() const override { return "loss of the trained model"; }
  AttackCost cost(const DisguiseSetting& setting, const AttackConfig&) const override {
    return {.nets = setting.training_rows};  // at most
  }

  std::vector<Reconstruction> run_on(const MembershipView& view,
                                     const AttackContext& context) override {
    if (!view.model || !view.candidates.defined()) {
      fail("the attack needs the trained model and rows to judge", name());
    }
    const Tensor logits = logits_of(*view.model, view.candidates, context);
    const int64_t n = logits.dim(0), classes = logits.dim(1);
    Reconstruction r;
    r.candidate = "loss";
    r.membership = Tensor::empty({n});
    for (int64_t i = 0; i < n; ++i) {
      const float* row = logits.data<float>() + i * classes;
      const float most = *std::max_element(row, row + classes);
      double sum = 0;
      for (int64_t k = 0; k < classes; ++k) sum += std::exp(double{row[k]} - most);
      r.membership.data<float>()[i] =
          static_cast<float>(row[view.labels[static_cast<size_t>(i)]] - most - std::log(sum));
    }
    return {r};
  }
};

}  // namespace

std::unique_ptr<DisguiseAttack> disguise_membership_attack() {
  return std::make_unique<Membership>();
}

}  // namespace ens
