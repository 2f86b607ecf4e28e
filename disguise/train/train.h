// SPDX-License-Identifier: Apache-2.0
// The cloud's half of disguised training (docs/disguise.md): a classifier from a disguised set
// alone. Nothing here can name the owner's key.
#pragma once

#include <filesystem>

#include "disguise/train/model.h"
#include "experiment/run_dir.h"
#include "proto/config.h"

namespace ens {

// Trains, or goes on with, the network of config.model on `train` by config.stage1, with
// config.seed, device and dtype, into the run folder `folder`: metrics.csv ("stage1", net 0: loss,
// accuracy on the first `test` rows after each epoch), a checkpoint after every epoch, model.h5
// (DisguisedModel), summary.json, DONE last. Whether there was anything to do. A training that was
// killed at any moment and started again ends in the same weights.
//
// Classes, shape and normalisation come from the set; disguised rows are not augmented; the stem
// of a net does not pool images below 64 pixels, whatever config.model.stem_pool says. `test` may
// be null: then no accuracy is measured. Usage Error if the folder holds a training on another set,
// if `train` is no training set or `test` no test set, if the two do not belong together (method,
// shape, classes, key id), or if the set has fewer rows than a batch.
bool train_disguised(const RunConfig& config, const std::filesystem::path& folder,
                     const RunFacts& facts, const DisguisedSetReader& train,
                     const DisguisedSetReader* test);

}  // namespace ens
