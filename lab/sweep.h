// SPDX-License-Identifier: Apache-2.0
// Sweeps: many trainings and attacks from one configuration (proto/config.proto, SweepConfig).
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "experiment/task_graph.h"
#include "proto/config.h"

namespace ens {

// One run of a sweep and the attacks on it.
struct SweepCell {
  std::string folder;  // its name inside the sweep's folder: "ensembler_h=2_seed=3"
  std::string row;
  std::map<std::string, std::string> values;  // axis path -> value
  RunConfig config;                           // complete, with the settings of its attacks
  std::vector<std::string> attacks;
  std::string skipped;  // why this combination makes no sense; empty if it does
};

// Every row with every combination of values, rows and values in their order. Combinations that a
// configuration forbids (P > N, no cell left for the cloud) are there with the reason in `skipped`;
// so are those that are the same experiment as an earlier cell (lambda makes no difference to a net
// without protection). Usage Error for unknown paths, values and attacks.
std::vector<SweepCell> expand(const SweepConfig& sweep, const std::string& data_root);

struct SweepOptions {
  std::filesystem::path out;
  std::vector<std::filesystem::path> reuse;  // folders whose finished runs may be built upon
  int jobs = 0;          // cells at once, sharing the compute threads; 0: one for each thread
  double memory_gb = 0;  // start no cell that would go beyond; 0: most of what is free
  std::stop_token stop;
};

// Prints the cells, what is done already, and an estimate of the time from training steps measured
// on this machine now.
void print_plan(const std::vector<SweepCell>& cells, const SweepOptions& options);

// Runs what is not done, resumes what was interrupted, and leaves OUT/sweep.json, OUT/sweep.txtpb
// (the sweep, for `ensembler task`), OUT/<cell>/ and OUT/report.html. Equal trainings and equal
// nets of stage 1, here or in the runs below options.reuse, are taken over instead of trained
// again. A cell that fails is marked with its reason and stops nothing. Returns how many trainings
// and attacks failed. Throws Stopped after options.stop.
int run_sweep(const SweepConfig& sweep, const SweepOptions& options);

// The tasks of a sweep's folder, CELL/train and CELL/attack/NAME, or of a run's, train and
// attack/NAME. `settings`: what a user said of a run's attacks and of where to compute; of a sweep,
// only data.root. Usage Error if it is neither, or a sweep of a version that kept no sweep.txtpb.
class TaskFolder {
 public:
  TaskFolder(const std::filesystem::path& folder, const RunConfig& settings);
  ~TaskFolder();

  struct Line {
    std::string id, state, reason;  // state: done, to do, waits (for its training), skipped
  };
  std::vector<Line> list() const;
  // Runs one task, with a progress line; a sweep's state is brought up to date. False if it was
  // done already. Usage Error if there is no such task or what it needs is not done; Error with the
  // reason if it fails.
  bool run(const std::string& id, std::stop_token stop);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
