// SPDX-License-Identifier: Apache-2.0
// One training under way: its surroundings, its checkpoint after every epoch, its metrics.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "experiment/run_dir.h"
#include "nn/autograd/ops.h"
#include "nn/data/dataset.h"
#include "nn/data/loader.h"
#include "nn/models/model.h"
#include "nn/optim/optim.h"
#include "proto/config.h"

namespace ens {

class ProtectionTraining;

// What every training of a run shares. Refers to its arguments, which must outlive it.
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

  // A batch's images as networks read them.
  Var input(const Batch& batch) const { return cast(Var(batch.images), dtype); }
  Shape feature() const { return smashed_shape(spec, split); }
  // How many images all epochs of a stage see: the length of a progress line.
  int64_t images_in(const TrainConfig& stage) const;
  // For the client's secrets: from the operating system's cryptographic source, or from the seed
  // where ensemble.insecure_seeded_secrets says so.
  Rng secret_rng(const std::string& stream) const;
};

// Somebody who learns alongside and whose state belongs into the checkpoint.
struct AuxiliaryModel {
  std::string name;
  Module* net;
  Optimizer* optimizer;
};

struct NetTraining {
  std::string stage;  // "stage1", "stage2": in metrics
  int index = 0;      // of the net; -1: the whole ensemble
  const TrainConfig* settings = nullptr;
  OptimSpec optimizer;
  std::string label;           // for people
  std::filesystem::path file;  // the checkpoint
  uint64_t data_seed = 0;      // order and augmentation
  std::vector<AuxiliaryModel> auxiliary_models;
  std::optional<Device> device;  // of the net and its batches; default: the context's
  std::function<void(double done)> before_step;  // the share of all steps; may be empty
  std::function<Var(const Batch&)> loss;
  bool capture = false;  // FitOptions::capture
  std::function<double()> quick_accuracy;
  // Further numbers of an epoch, for metrics.csv; may be empty.
  std::function<std::vector<std::pair<std::string, double>>()> epoch_metrics;
};

// Trains `net` to the end of its epochs, from the checkpoint if it is there; leaves the checkpoint
// complete. A training killed at any moment and started again ends in the same weights.
void train_net(const TrainingContext& context, Module& net, const NetTraining& job,
               Progress& progress);

// The checkpoint of a net that was trained elsewhere, without an optimiser's state: it is complete,
// and not trained further.
void save_trained(const Module& net, const NetTraining& job);
void load_trained(Module& net, const NetTraining& job);

// How many epochs the checkpoint of a training has done.
int64_t epochs_done(const std::filesystem::path& file);

// Sums up a number over the steps of an epoch.
class EpochMean {
 public:
  void add(double value) {
    sum_ += value;
    ++count_;
  }
  // The mean since the last call.
  double take();

 private:
  double sum_ = 0;
  int64_t count_ = 0;
};

}  // namespace ens
