// SPDX-License-Identifier: Apache-2.0
// Translation (docs/text.md) as runs, trainings and attacks.
#pragma once

#include <filesystem>
#include <stop_token>
#include <string>
#include <vector>

#include "experiment/scenario.h"

namespace ens {

// Whether this is the configuration of a translation.
bool is_text(const RunConfig& config);

const Scenario& text_scenario();

// Trains into the run folder, or goes on with what is there. Whether there was anything to do.
bool train_text_run(const RunConfig& config, const std::filesystem::path& folder);

// Attacks finished runs, as `wanted` says, and prints what is known of them; what has a result
// already is left alone unless `again`. With no attack named, all. Returns how many failed.
int attack_text_runs(const std::vector<std::filesystem::path>& runs,
                     const std::vector<std::string>& attacks, const RunConfig& wanted, bool again,
                     std::stop_token stop);

}  // namespace ens
