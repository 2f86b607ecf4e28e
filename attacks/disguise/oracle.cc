// SPDX-License-Identifier: Apache-2.0
// The upper bound beside every number: every attack on pairs with all pairs that there are, and of
// them the one that rebuilds held-out pairs best.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "attacks/core/metrics.h"
#include "attacks/disguise/registry.h"
#include "base/error.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

class Oracle : public AttackOn<AnyPairsView> {
 public:
  std::string name() const override { return "oracle"; }
  std::string title() const override { return "pairs without limit"; }
  AttackCost cost(const DisguiseSetting&, const AttackConfig&) const override { return {}; }

  std::vector<Reconstruction> run_on(const AnyPairsView& view,
                                     const AttackContext& context) override {
    const Dataset& data = *view.public_data;
    const int64_t held_out = std::clamp<int64_t>(data.count() / 10, 1, 256);
    if (data.count() <= held_out) {
      usage_fail("one public image leaves no pair to learn from", name(),
                 "raise attack.public_images");
    }
    const Dataset known = data.head(data.count() - held_out);
    const Tensor truth = images_of(data, known.count(), held_out);
    const int64_t m = view.queries.dim(0);
    DisguiseVictim own;  // of pairs that the attacker asked for
    own.disguise = view.disguise;
    own.image = view.image;
    own.training_rows = view.training_rows;
    own.rows = view.rows;
    own.public_data = &known;
    own.apply = view.apply;
    Shape both = view.queries.shape();
    both.set(0, m + held_out);
    own.queries = Tensor::empty(both);
    own.queries.rows(0, m).copy_from(view.queries);
    own.queries.rows(m, held_out).copy_from(view.apply(truth));
    AttackContext with_all = context;
    with_all.settings.mutable_known_pairs()->clear_counts();
    with_all.settings.mutable_known_pairs()->add_counts(known.count());
    DisguiseSetting setting{view.disguise, view.image,
                            Shape(view.queries.shape().dims().subspan(1)), view.training_rows,
                            known.count()};
    Reconstruction best;
    double least = std::numeric_limits<double>::infinity();
    for (const std::string& name : disguise_attack_names()) {
      const auto attack = make_disguise_attack(name);
      // Whoever has pairs need not find out who is who.
      if (attack->level() == level() || attack->level() == KnowledgeLevel::kPrivateImages ||
          !attack->not_applicable_reason(setting).empty()) {
        continue;
      }
      Reconstruction r = attack->run(own, with_all).back();
      const std::vector<double> errors = score_images(truth, r.images.rows(m, held_out)).mse;
      double error = 0;
      for (const double e : errors) error += e / static_cast<double>(errors.size());
      if (error >= least) continue;
      least = error;
      best = Reconstruction();
      best.candidate = fmt::format("{}, {} pairs", name, known.count());
      best.images = r.images.rows(0, m).clone();
      if (!r.match) continue;
      best.match = [match = r.match, m](const Tensor& gallery) {
        return match(gallery).rows(0, m).clone();
      };
    }
    return {best};
  }
};

}  // namespace

std::unique_ptr<DisguiseAttack> disguise_oracle_attack() { return std::make_unique<Oracle>(); }

}  // namespace ens
