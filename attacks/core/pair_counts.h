// SPDX-License-Identifier: Apache-2.0
// How many known pairs the points of an attack's curve have.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "proto/config.pb.h"

namespace ens {

// attack.known_pairs.counts, or `otherwise` where there are none: at most `available`, ascending,
// each once.
std::vector<int64_t> pair_counts(const AttackConfig& settings, int64_t available,
                                 std::span<const int64_t> otherwise);

}  // namespace ens
