// SPDX-License-Identifier: Apache-2.0
// Who may know what: the only place where an attacker's view is filled, and where images are
// divided between the attacker and the client. tests/attacks/split/grant_test.cc lists the grants
// of every attack.
#pragma once

#include "attacks/split/views.h"

namespace ens {

// Fills in exactly the members of the view. Error if the victim lacks what it is to grant.
void grant(const SplitVictim& victim, const AttackContext& context, ServerView& view);
void grant(const SplitVictim& victim, const AttackContext& context, LabelView& view);
void grant(const SplitVictim& victim, const AttackContext& context, NearestView& view);
void grant(const SplitVictim& victim, const AttackContext& context, QueryFreeView& view);
void grant(const SplitVictim& victim, const AttackContext& context, TrafficView& view);
void grant(const SplitVictim& victim, const AttackContext& context, SubsetView& view);
// As many pairs as the last of pair_counts(), of the first public images.
void grant(const SplitVictim& victim, const AttackContext& context, KnownPairsView& view);
void grant(const SplitVictim& victim, const AttackContext& context, BlackBoxView& view);
void grant(const SplitVictim& victim, const AttackContext& context, RepetitionView& view);
void grant(const SplitVictim& victim, const AttackContext& context, WhiteBoxView& view);

// How send number `copy` >= 1 of images [B,C,S,S] in [0, 1] differs from the images themselves, as
// attack.repetition.change says. `seed`: of the shifts, mirrors and noises, each image's own.
Tensor changed_copy(const Tensor& images, const std::string& change, int64_t copy, uint64_t seed);

// How many pairs known-pairs tries: the setting's numbers, at most `available`, ascending, each
// once.
std::vector<int64_t> pair_counts(const AttackConfig& settings, int64_t available);

// For each of `images` the number of the one of `among` with the least squared error.
std::vector<int64_t> nearest_images(const Dataset& images, const Dataset& among);

// Whose images are whose. The public images are drawn from `pool` (attack.public_source); the
// private ones, those that are scored and those behind the rest of the traffic, are different
// images of the test split.
struct ImageRoles {
  Dataset public_data;
  Dataset scored;
  Dataset traffic;
  std::vector<int64_t> scored_indices;  // of the scored images, in the test split
};
ImageRoles divide_images(const Dataset& pool, const Dataset& test, const AttackConfig& settings,
                         uint64_t seed);

}  // namespace ens
