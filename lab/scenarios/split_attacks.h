// SPDX-License-Identifier: Apache-2.0
// Attacks on finished run folders. What each may know is decided in attacks/split/grant.h.
#pragma once

#include <filesystem>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "experiment/task_graph.h"
#include "nn/core/tensor.h"
#include "proto/config.h"

namespace ens {

// One finished run, opened for attacks: bundles, data, the client's features. Thread-safe.
class AttackTarget {
 public:
  // Of `wanted` the attacks' settings count, and whatever it has of where to compute: device,
  // dtype, tf32, data.root; all else, and what it leaves open of these, is as the run was trained.
  // Error if the run's files are damaged or the data are not there.
  AttackTarget(const std::filesystem::path& folder, const RunConfig& wanted);
  ~AttackTarget();

  // Runs one attack with each of its seeds and leaves its result in FOLDER/attack/NAME, or
  // FOLDER/attack/NAME-seedS where attack.seed is not the run's: result.json, scores.csv,
  // original.png, reconstruction.png and, with attack.keep_images, reconstructions.h5. Error with
  // the reason if it fails, which is in the result too; stopped, it leaves nothing. `observed`:
  // smashed features as they were seen on the wire, of the scored images in order; undefined:
  // computed here as the edge computes them. Reports `cost_per_image` for each of images().
  void run(const std::string& attack, const Tensor& observed, double cost_per_image,
           TaskContext& task);
  Device device() const;  // where it is attacked
  // Images that run() will pass through networks (AttackCost).
  int64_t images(const std::string& attack) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Whether the attack's folder holds a result (not a failure) for these settings, in
// this type of numbers.
bool attack_done(const std::filesystem::path& folder, const std::string& attack,
                 const RunConfig& wanted, bool on_the_wire);

struct AttackJob {
  std::filesystem::path folder;
  std::string attack;
  Tensor observed;  // see AttackTarget::run
};
// Runs the jobs as tasks (experiment/task_graph.h) with one progress line. A job that fails does
// not stop the others; returns how many failed. Jobs whose result is there already, for the same
// settings, are skipped unless `again`. `wanted`: see AttackTarget. Throws Stopped soon after a
// stop was requested.
int run_attacks(const std::vector<AttackJob>& jobs, const RunConfig& wanted, bool again,
                std::stop_token stop = {});

}  // namespace ens
