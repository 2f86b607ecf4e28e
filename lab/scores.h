// SPDX-License-Identifier: Apache-2.0
// The scores of single images that an attack leaves in RUN/attack/NAME/scores.csv
// (proto/results.proto), and the paired comparison of two runs by them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "attacks/core/evaluator.h"

namespace ens {

inline constexpr const char* kScoresFile = "scores.csv";

// `images`: the indices of the scored images in the test split; `labels`: their classes.
std::string scores_csv(const std::vector<AttackScore>& by_seed, uint64_t first_seed,
                       std::span<const int64_t> images, std::span<const int32_t> labels);

// One attack on two runs that scored the same images.
struct AttackComparison {
  std::string attack;  // its folder
  int64_t images = 0;
  double ssim[2] = {0, 0};  // means over images and seeds
  PairedTest ssim_test;     // by image; of an attack with several seeds the mean over them
  bool at_floor[2] = {false, false};  // it reads no more than a blind guess
  std::string missing;                // why there are no numbers; empty: there are
};

// The attacks that both runs have, or those named, in the order of tables. Error if the runs cannot
// be paired: other scored images, another metric; usage Error for an attack that one of
// them lacks, or if they have none in common.
std::vector<AttackComparison> compare_runs(const std::filesystem::path& a,
                                           const std::filesystem::path& b,
                                           const std::vector<std::string>& attacks);

}  // namespace ens
