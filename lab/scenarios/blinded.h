// SPDX-License-Identifier: Apache-2.0
// Blinded inference in the lab (docs/offload.md): its cost, and runs of it beside the unprotected
// run whose network it is.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "nn/plan/int8.h"
#include "offload/core/scheme.h"
#include "proto/config.h"

namespace ens {

// What travels for one image: of all workers together, `sent` of whom are sent a share.
struct BlindedCost {
  int64_t rounds = 0, bytes_up = 0, bytes_down = 0;
};
// groups: of this graph; they may lack their weights.
BlindedCost blinded_cost(const Graph& graph, const std::vector<Int8Group>& groups,
                         const Scheme& scheme, int sent);

// Attacks RUN/blinded.h5 with what 1, 2, ... K + T colluding workers see, as `offload` of
// the configuration says, and leaves a run folder for each, RUN/blinded/K1-T1/1-of-2: summary.json
// and attack/{oracle,share-lattice,uniform-numbers} as of any attacked run. `oracle` is
// the decoder on the coalition's shares; its `own` is the same decoder on inputs without noise.
// Of scheme darknight_real all K + T workers alone, with share-ica, in RUN/blinded/real-K1-T1.
// Those that are there are replaced. `config`: RUN's, with other settings of the attack. Returns
// the folders. Usage Error for a scheme that hides nothing.
std::vector<std::filesystem::path> attack_blinded(const std::filesystem::path& run,
                                                  const RunConfig& config);

}  // namespace ens
