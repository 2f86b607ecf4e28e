// SPDX-License-Identifier: Apache-2.0
#include "attacks/disguise/grant.h"

#include <array>

#include "attacks/core/pair_counts.h"
#include "nn/core/rng.h"
#include "nn/data/loader.h"

namespace ens {

void grant(const DisguiseVictim& victim, const AttackContext&, DisguisedView& view) {
  view.disguise = victim.disguise;
  view.image = victim.image;
  view.training_rows = victim.training_rows;
  view.rows = victim.rows;
  view.queries = victim.queries;
}

void grant(const DisguiseVictim& victim, const AttackContext& context, PublicView& view) {
  grant(victim, context, static_cast<DisguisedView&>(view));
  view.public_data = victim.public_data;
}

void grant(const DisguiseVictim& victim, const AttackContext& context, PrivateImagesView& view) {
  grant(victim, context, static_cast<PublicView&>(view));
  const Tensor images = victim.private_images();
  view.private_rows = victim.private_rows();
  view.private_images = Tensor::empty(images.shape());
  const std::vector<int64_t> order = Rng(context.seed, "private images").permutation(images.dim(0));
  for (int64_t i = 0; i < images.dim(0); ++i) {
    view.private_images.rows(i, 1).copy_from(images.rows(order[static_cast<size_t>(i)], 1));
  }
}

void grant(const DisguiseVictim& victim, const AttackContext& context, ModelView& view) {
  grant(victim, context, static_cast<PublicView&>(view));
  view.model = victim.model;
  view.apply_other_key = victim.apply_other_key;
}

void grant(const DisguiseVictim& victim, const AttackContext&, MembershipView& view) {
  view.disguise = victim.disguise;
  view.model = victim.model;
  view.candidates = victim.candidates;
  view.labels = victim.candidate_labels;
}

void grant(const DisguiseVictim& victim, const AttackContext& context, DisguisedPairsView& view) {
  grant(victim, context, static_cast<PublicView&>(view));
  const auto counts = disguised_pair_counts(context.settings, victim.public_data->count());
  if (counts.empty()) return;
  view.pair_images = images_of(*victim.public_data, 0, counts.back());
  view.pair_rows = victim.apply(view.pair_images);
}

void grant(const DisguiseVictim& victim, const AttackContext& context, AnyPairsView& view) {
  grant(victim, context, static_cast<PublicView&>(view));
  view.apply = victim.apply;
}

std::vector<int64_t> disguised_pair_counts(const AttackConfig& settings, int64_t available) {
  constexpr std::array<int64_t, 8> kDefault = {1, 2, 3, 5, 10, 50, 100, 1000};
  return pair_counts(settings, available, kDefault);
}

}  // namespace ens
