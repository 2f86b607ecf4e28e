// SPDX-License-Identifier: Apache-2.0
// The attacks of `ensembler attack` on finished runs, as a scenario's tasks.
#pragma once

#include <filesystem>
#include <stop_token>
#include <string>
#include <vector>

#include "experiment/scenario.h"

namespace ens {

// Runs the attacks of all runs side by side; what has a result already is left alone unless
// `again`. Returns how many failed; their reasons are in their result.json. Throws Stopped.
int run_attack_tasks(const Scenario& scenario, const std::vector<ScenarioRun>& runs, bool again,
                     std::stop_token stop);

// A finished run's configuration, with the settings of the attacks that are wanted, and with where
// data and device are. Error if the run's cannot be read.
RunConfig attacked_config(const std::filesystem::path& folder, RunConfig wanted);

// Whether the attack's result of these settings is there, and is none of a failure.
bool has_result(const std::filesystem::path& folder, const std::string& attack,
                const AttackConfig& settings);

}  // namespace ens
