// SPDX-License-Identifier: Apache-2.0
// The training of one network in a run folder: a checkpoint after every epoch, and its metrics.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "experiment/run_dir.h"
#include "nn/data/loader.h"
#include "nn/optim/optim.h"
#include "proto/config.h"

namespace ens {

inline constexpr int64_t kQuickTest = 2000;  // test images that are looked at after each epoch

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
  std::vector<AuxiliaryModel> auxiliary_models;
  std::function<void(double done)> before_step;  // the share of all steps; may be empty
  std::function<Var(const Batch&)> loss;
  bool capture = false;                    // FitOptions::capture
  std::function<double()> quick_accuracy;  // after each epoch, on kQuickTest images; may be empty
  // Further numbers of an epoch, for metrics.csv; may be empty.
  std::function<std::vector<std::pair<std::string, double>>()> epoch_metrics;
};

// Trains `net` to the end of its epochs, from the checkpoint if it is there; leaves the checkpoint
// complete. A training killed at any moment and started again ends in the same weights.
void train_net(RunDir& run, BatchSource& loader, Module& net, const NetTraining& job,
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
