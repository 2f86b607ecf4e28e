// SPDX-License-Identifier: Apache-2.0
// The attacks of `ensembler attack` on finished runs, as a scenario's tasks.
#pragma once

#include <stop_token>
#include <vector>

#include "experiment/scenario.h"

namespace ens {

// Runs the attacks of all runs side by side; what has a result already is left alone unless
// `again`. Returns how many failed; their reasons are in their result.json. Throws Stopped.
int run_attack_tasks(const Scenario& scenario, const std::vector<ScenarioRun>& runs, bool again,
                     std::stop_token stop);

}  // namespace ens
