// SPDX-License-Identifier: Apache-2.0
// Disguised training as a scenario (docs/disguise.md): one run folder holds both parties.
//
//   owner/    mode 0700: owner.key, and the sets train.h5 and test.h5 as the cloud gets them
//   cloud/    the cloud's training, a run folder of its own: model.h5
//   attack/   as of every run; summary.json of the whole
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "experiment/scenario.h"
#include "nn/data/dataset.h"

namespace ens {

// Whether this is the configuration of a disguised training.
bool is_disguised(const RunConfig& config);

// The public images that the method mixes in (disguise.instahide.public_data), in the size of the
// owner's; null where it mixes in none. Usage Error if they are the owner's own data set.
std::shared_ptr<const Dataset> mixed_in(const RunConfig& config);

// The settings of the method that tables tell apart: "4x4 blocks, noise 25".
std::string disguise_settings_for_tables(const DisguiseConfig& disguise);

const Scenario& disguise_scenario();
// The scenario that a configuration is of.
const Scenario& scenario_of(const RunConfig& config);

// Makes a key, disguises the data set and trains on it; goes on with what is there. Whether there
// was anything to do.
bool train_disguised_run(const RunConfig& config, const std::filesystem::path& folder);

// Attacks finished runs, as `wanted` says; what has a result already is left alone unless `again`.
// With no attack named, all. Returns how many failed; their reasons are in their result.json.
int attack_disguised_runs(const std::vector<std::filesystem::path>& runs,
                          const std::vector<std::string>& attacks, const RunConfig& wanted,
                          bool again, std::stop_token stop);

}  // namespace ens
