// SPDX-License-Identifier: Apache-2.0
// The upper bound beside every number: every attack that trains no network through a model, with
// all pairs that there are, and a decoder trained on as many pairs as it likes; of them the one
// that rebuilds held-out pairs best.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "attacks/core/matching.h"
#include "attacks/core/metrics.h"
#include "attacks/disguise/block_decoder.h"
#include "attacks/disguise/registry.h"
#include "base/error.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

// What rebuilds the held-out images with the least error, and what finds most of them among each
// other, which need not be the same. The queries come first, the held-out images follow.
class Best {
 public:
  Best(const Tensor& truth, int64_t queries) : truth_(truth), queries_(queries) {}

  void consider(const std::string& name, const Reconstruction& r) {
    const Tensor rebuilt = r.images.rows(queries_, truth_.dim(0));
    const std::vector<double> errors = score_images(truth_, rebuilt).mse;
    const double error =
        std::accumulate(errors.begin(), errors.end(), 0.0) / static_cast<double>(errors.size());
    if (error < least_) {
      least_ = error;
      best_.candidate = name;
      best_.images = r.images.rows(0, queries_).clone();
    }
    const auto match = [own = r.match, images = r.images](const Tensor& gallery) {
      return own ? own(gallery) : pixel_similarity(images.plain(), gallery);
    };
    const double found =
        score_matching(match(truth_).rows(queries_, truth_.dim(0)).clone(), 1).rank1.mean;
    if (found <= most_) return;
    most_ = found;
    best_.match = [match, n = queries_](const Tensor& gallery) {
      return match(gallery).rows(0, n).clone();
    };
  }
  const Reconstruction& result() const { return best_; }

 private:
  const Tensor truth_;
  const int64_t queries_;
  double least_ = std::numeric_limits<double>::infinity(), most_ = -1;
  Reconstruction best_;
};

class Oracle : public AttackOn<AnyPairsView> {
 public:
  std::string name() const override { return "oracle"; }
  std::string title() const override { return "pairs without limit"; }
  AttackCost cost(const DisguiseSetting& setting, const AttackConfig& settings) const override {
    return {.decoders = setting.public_images * settings.decoder().epochs()};
  }

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
    Best best(truth, m);
    for (const std::string& name : disguise_attack_names()) {
      const auto attack = make_disguise_attack(name);
      // Whoever has pairs need not find out who is who.
      if (attack->level() == level() || attack->level() == KnowledgeLevel::kPrivateImages ||
          attack->cost(setting, context.settings).nets > 0 ||
          !attack->not_applicable_reason(setting).empty()) {
        continue;
      }
      for (const Reconstruction& r : attack->run(own, with_all)) {
        if (!std::isfinite(r.x) || r.x == static_cast<double>(known.count())) {
          best.consider(fmt::format("{}, {} pairs", name, known.count()), r);
        }
      }
    }
    if (BlockLinear::no_grid_reason(setting.row, setting.image).empty()) {
      best.consider("a decoder, pairs without limit", decoded(own, known, setting.row, context));
    }
    return {best.result()};
  }

 private:
  static Reconstruction decoded(const DisguiseVictim& own, const Dataset& known, const Shape& row,
                                const AttackContext& context) {
    const RowScale scale(own.queries);
    const auto rows = [&](const Tensor& images) {
      return scale.apply(own.apply(images.to(Device{}).plain()));
    };
    const auto decoder =
        train_block_decoder(row, own.image, context, known, rows, context.seed, "oracle");
    Reconstruction r;
    r.images = decode_rows(*decoder, own.image, context, scale.apply(own.queries));
    return r;
  }
};

}  // namespace

std::unique_ptr<DisguiseAttack> disguise_oracle_attack() { return std::make_unique<Oracle>(); }

}  // namespace ens
