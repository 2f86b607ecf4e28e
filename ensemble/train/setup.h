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

// What protection.kind asks of the training of whole nets (stage 1), where it concerns the feature.
// Kinds that ask nothing (none, additive, shredder, random) train the same net: it is `plain`.
struct FeatureRecipe {
  double sigma = 0;             // of noise on the feature
  bool fresh = false;           // drawn anew for every image
  double dropout = 0;           // of the feature
  double distance_weight = 0;   // of the distance correlation of image and feature
  double adversary_weight = 0;  // of an inverse network's success
  bool plain() const {
    return sigma == 0 && dropout == 0 && distance_weight == 0 && adversary_weight == 0;
  }
};
FeatureRecipe feature_recipe(const RunConfig& config);
OptimSpec optim_spec(const TrainConfig& config);
FitOptions fit_options(const TrainConfig& config, const std::string& label);

// The devices that the configuration names, told about config.tf32; at least one.
std::vector<Device> devices_for(const RunConfig& config);

// "float32", "bfloat16" or "auto" (bfloat16 where the device is fast in it). When bfloat16 is asked
// for and missing, says so once on stderr and uses float32.
Dtype choose_dtype(const std::string& name, Device device);

}  // namespace ens
