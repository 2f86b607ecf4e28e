// SPDX-License-Identifier: Apache-2.0
// What every training of a run shares.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "experiment/train_net.h"
#include "nn/autograd/ops.h"
#include "nn/data/dataset.h"
#include "nn/models/model.h"
#include "proto/config.h"

namespace ens {

class ProtectionTraining;

// Refers to its arguments, which must outlive it.
struct TrainingContext {
  // Usage Error if the configuration and the data do not fit each other.
  TrainingContext(const RunConfig& config, RunDir& run, const Dataset& train, const Dataset& test);

  const RunConfig& config;
  RunDir& run;
  const Dataset& train;
  const Dataset& test;
  const Dataset quick_test;  // what is looked at after each epoch
  const ModelSpec spec;
  const Split split;
  const std::shared_ptr<const ProtectionTraining> protection;  // protection.kind's
  const std::vector<Device> devices;                           // for the nets of stage 1, in turn
  const Device device;                                         // for all else: the first
  const Dtype dtype;
  const std::function<void()> check_stop;  // throws Stopped; see stop_check() in base/progress.h

  // Batches of the training images for a stage, in an order and with an augmentation that
  // `data_seed` decides.
  Loader loader(const TrainConfig& stage, uint64_t data_seed, Device device) const;
  // A batch's images as networks read them.
  Var input(const Batch& batch) const { return cast(Var(batch.images), dtype); }
  Shape feature() const { return smashed_shape(spec, split); }
  // How many images all epochs of a stage see: the length of a progress line.
  int64_t images_in(const TrainConfig& stage) const;
  // For the client's secrets: from the operating system's cryptographic source, or from the seed
  // where ensemble.insecure_seeded_secrets says so.
  Rng secret_rng(const std::string& stream) const;
};

}  // namespace ens
