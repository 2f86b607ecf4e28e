// SPDX-License-Identifier: Apache-2.0
// Training in run folders: alone, or with what other runs have trained already.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "lab/exchange.h"
#include "proto/config.h"

namespace ens {

// What makes one training differ from another: not where the data lie, nor how it is attacked.
std::string training_identity(const RunConfig& config);

// Trains (or resumes, or finds done) the run in `folder`. From `source_runs`, other run folders, it
// takes over what is equal: the whole result of an equal training, or the nets of an equal stage 1.
// `imported`: the nets of stage 1, of a configuration of import_config(). Whether there was
// anything to do.
bool train_run(const RunConfig& config, const std::filesystem::path& folder,
               const std::vector<std::filesystem::path>& source_runs = {},
               const std::vector<WeightsFile>& imported = {});

}  // namespace ens
