// SPDX-License-Identifier: Apache-2.0
// What an attack leaves in its folder, and the table of it on stdout.
#pragma once

#include <filesystem>
#include <span>
#include <vector>

#include "attacks/core/evaluator.h"
#include "attacks/split/grant.h"
#include "proto/config.h"
#include "proto/results.pb.h"

namespace ens {

void fill(results::Interval* out, const Interval& interval);
void fill(results::AttackResult::Floor* out, const AttackScore& score);
// What attack.metric and attack.seed mean: 0 is the run's own seed.
MetricMode metric_mode(const AttackConfig& config);
uint64_t first_attack_seed(const RunConfig& config);
// One attack, run with one or more seeds, ascending by 1 from `first_seed`. Of several the medians
// and intervals over images and seeds; all else is of the seed in the middle. `images`: the indices
// of the scored images in the test split.
results::AttackResult to_message(const std::vector<AttackScore>& by_seed, uint64_t first_seed,
                                 std::span<const int64_t> images);
// Leaves in an attack's folder scores.csv, original.png, reconstruction.png and, where asked for,
// reconstructions.h5; returns what result.json says of them. `truth`: the scored images.
results::AttackResult write_scores(const std::filesystem::path& folder,
                                   const std::vector<AttackScore>& by_seed, uint64_t first_seed,
                                   const ImageRoles& roles, const Tensor& truth, bool keep_images);
// The same as TensorBoard's events in `folder`: scores by seed, those of the candidates and of the
// growing decoder, and both PNGs. `attack`: the attack's folder.
void write_events(const std::filesystem::path& folder, const results::AttackResult& result,
                  const std::filesystem::path& attack);
inline constexpr const char* kImagesFile = "reconstructions.h5";
// The score to show of several seeds: the one in the middle by SSIM.
size_t middle_seed(const std::vector<AttackScore>& by_seed);

// RUN/attack/NAME/result.json of each attack, and NAME-seed3/result.json, in the order of tables.
std::vector<std::filesystem::path> result_files(const std::filesystem::path& run);

// A plain table of the runs' accuracies and attack results on stdout.
void print_results(const std::vector<std::filesystem::path>& folders);

}  // namespace ens
