// SPDX-License-Identifier: Apache-2.0
// What sweeps and tasks must know of a kind of experiment; split inference is the first
// (lab/scenarios/split.h). The next are disguised training and trusted/untrusted offload.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "experiment/task_graph.h"
#include "proto/config.h"

namespace ens {

// A run folder, and what shall be found in it.
struct ScenarioRun {
  std::string name;  // its tasks' ids begin with "NAME/"; empty: a run by itself
  std::filesystem::path folder;
  RunConfig config;  // complete, with the settings of its attacks
  std::vector<std::string> attacks;
};

// What the ids of a run's tasks begin with.
inline std::string task_prefix(const std::string& run_name) {
  return run_name.empty() ? "" : run_name + "/";
}

struct TaskOptions {
  std::vector<std::filesystem::path> reuse;  // folders whose finished runs may be built upon
  // Whether a run's tasks get their cost, which takes its data and perhaps some training steps;
  // empty: all do.
  std::function<bool(const ScenarioRun&)> estimate;
};

class Scenario {
 public:
  virtual ~Scenario() = default;
  // Why this configuration can never run; empty if it can. Needs no data.
  virtual std::string impossible(const RunConfig& config) const = 0;
  // Equal for two configurations whose trainings are the same: not where the data lie, nor how it
  // is attacked.
  virtual std::string identity(const RunConfig& config) const = 0;
  // If none is named, those of the tier (attack.tier). Usage Error if there is no attack of such a
  // name.
  virtual std::vector<std::string> attacks(const std::vector<std::string>& named,
                                           const std::string& tier) const = 0;
  // The tasks of all runs, in their order: NAME/train, then NAME/attack/ATTACK. Runs that can build
  // upon each other wait for each other.
  virtual std::vector<Task> tasks(const std::vector<ScenarioRun>& runs,
                                  const TaskOptions& options) const = 0;
};

}  // namespace ens
