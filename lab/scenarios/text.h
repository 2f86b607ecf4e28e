// SPDX-License-Identifier: Apache-2.0
// Translation (docs/text.md) as runs, trainings and attacks.
#pragma once

#include <filesystem>

#include "experiment/scenario.h"

namespace ens {

// Whether this is the configuration of a translation.
bool is_text(const RunConfig& config);

const Scenario& text_scenario();

// Trains into the run folder, or goes on with what is there. Whether there was anything to do.
bool train_text_run(const RunConfig& config, const std::filesystem::path& folder);

}  // namespace ens
