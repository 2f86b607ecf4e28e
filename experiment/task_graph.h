// SPDX-License-Identifier: Apache-2.0
// Tasks that need each other, and their executor on this machine.
//
// A task is what can be done, stopped and done again by itself: a training, one attack. A scenario
// (experiment/scenario.h) makes the tasks of a run; `ensembler sweep` runs the graph of all its
// cells, `ensembler task` one of them.
#pragma once

#include <filesystem>
#include <functional>
#include <mutex>
#include <stop_token>
#include <string>
#include <vector>

#include "nn/core/device.h"

namespace ens {

// What a running task is given. Thread-safe.
class TaskContext {
 public:
  using Listen = std::function<void(double cost, const std::string& note)>;
  // `expected`: the task's cost; what is reported never adds up to more.
  TaskContext(std::stop_token stop, double expected, Listen listen);

  std::stop_token stop() const { return stop_; }
  // That work was done for which `cost` of the estimate stands, and what is going on now (may be
  // empty). Tasks call this at every step: throws Stopped (base/progress.h) when a stop was
  // requested.
  void report(double cost, const std::string& note);
  double left() const;  // of the estimate, not reported yet

 private:
  const std::stop_token stop_;
  const double expected_;
  const Listen listen_;
  mutable std::mutex mutex_;
  double reported_ = 0;
};

struct Task {
  std::string id;                  // "none/train", "none/attack/oracle"
  std::vector<std::string> needs;  // ids: must be done before; if one fails, this fails too
  std::vector<std::string> after;  // ids: must have ended before, done or failed
  // Estimated, in a unit that all tasks of a graph share: a sweep's in seconds of compute on one
  // thread, those of `ensembler attack` in images through networks.
  double cost = 0;
  double gigabytes = 0;  // estimated, while it runs
  Device device;         // where it computes
  bool done = false;     // its result is there already
  std::string failed;    // why it cannot be done, where that is known already
  std::string note;      // for plans: "stage 1 shared"
  // Throws if it fails. Started again after a stop or a crash, it ends in the same result.
  std::function<void(TaskContext&)> run;
};

// A stopped task was running when the stop was requested.
enum class TaskState { kWaiting, kRunning, kDone, kFailed, kStopped };

struct TaskStatus {
  TaskState state = TaskState::kWaiting;
  std::string reason;  // kFailed
};

struct ExecutorOptions {
  int jobs = 0;          // tasks at once, which share the compute threads; 0: one for each thread,
                         // on a GPU 4, which each fill several streams
  double gigabytes = 0;  // start no task that would go beyond, unless nothing runs; 0: most of what
                         // is free
  std::stop_token stop;  // starts nothing more; what runs is stopped at its next report
  // Both may be empty, and are called by one thread at a time. `statuses`: of all tasks.
  std::function<void(const std::vector<TaskStatus>& statuses)> on_change;  // some task's state
  std::function<void(const Task& task, double cost, const std::string& note)> on_report;
};

// The statuses of tasks that nobody has run yet, in the order of `tasks`: from done and failed.
std::vector<TaskStatus> initial_statuses(const std::vector<Task>& tasks);

// Runs what is not done, the first that may start first; returns every task's status, in the order
// of `tasks`. Error if two tasks have one id, or a task needs one that is not there or, directly or
// through others, itself.
std::vector<TaskStatus> run_tasks(const std::vector<Task>& tasks, const ExecutorOptions& options);

}  // namespace ens
