// SPDX-License-Identifier: Apache-2.0
// From a configuration to the objects of a training.
#pragma once

#include <string>

#include "nn/data/dataset.h"
#include "nn/models/model.h"
#include "nn/optim/fit.h"
#include "proto/config.h"

namespace ens {

DataOptions data_options(const RunConfig& config, DataSplit split);
// The classifier for a data set: classes, image size and normalisation come from the data.
ModelSpec model_spec(const RunConfig& config, const Dataset& data);
Split split_of(const RunConfig& config);
ModelSpec model_spec(const ModelConfig& config);  // without what comes from the data

OptimSpec optim_spec(const TrainConfig& config);
CrossEntropySpec cross_entropy_spec(const TrainConfig& config);
FitOptions fit_options(const TrainConfig& config, const std::string& label);

// The devices that the configuration names, told about config.tf32; at least one.
std::vector<Device> devices_for(const RunConfig& config);

}  // namespace ens
