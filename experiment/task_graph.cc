// SPDX-License-Identifier: Apache-2.0
#include "experiment/task_graph.h"

#include <algorithm>
#include <condition_variable>
#include <map>

#include "base/error.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/threads.h"
#include "nn/optim/fit.h"

namespace ens {
namespace {

// Four fifths of what the system could give.
double free_gigabytes() { return 0.8 * available_memory() / 1e9; }

class Executor {
 public:
  Executor(const std::vector<Task>& tasks, const ExecutorOptions& options)
      : tasks_(tasks),
        options_(options),
        budget_(options.gigabytes > 0 ? options.gigabytes : free_gigabytes()),
        statuses_(initial_statuses(tasks)) {
    std::map<std::string, size_t> index;
    for (size_t i = 0; i < tasks.size(); ++i) {
      if (!index.emplace(tasks[i].id, i).second) fail("two tasks have one id", tasks[i].id);
    }
    const auto find = [&](const Task& task, const std::vector<std::string>& ids) {
      std::vector<size_t> found;
      for (const std::string& id : ids) {
        if (!index.contains(id)) fail("waits for '" + id + "', which is no task", task.id);
        found.push_back(index.at(id));
      }
      return found;
    };
    for (const Task& task : tasks) {
      needs_.push_back(find(task, task.needs));
      after_.push_back(find(task, task.after));
    }
    refuse_cycles();
  }

  std::vector<TaskStatus> run() {
    Device where;  // a GPU if any task wants one
    int waiting = 0;
    for (size_t i = 0; i < tasks_.size(); ++i) {
      if (statuses_[i].state != TaskState::kWaiting) continue;
      ++waiting;
      if (tasks_[i].device.type != Device::Type::kCpu) where = tasks_[i].device;
    }
    if (waiting == 0) return statuses_;
    const int all = where.type == Device::Type::kCpu ? compute_threads() : 4;
    const int jobs = std::clamp(options_.jobs > 0 ? options_.jobs : all, 1, waiting);
    run_parallel(
        jobs, jobs, [&](int) { worker(); }, where);
    return statuses_;
  }

 private:
  bool ended(size_t i) const {
    return statuses_[i].state == TaskState::kDone || statuses_[i].state == TaskState::kFailed;
  }

  void refuse_cycles() const {
    std::vector<bool> started(tasks_.size());
    for (bool more = true; more;) {
      more = false;
      for (size_t i = 0; i < tasks_.size(); ++i) {
        const auto before = [&](size_t other) { return started[other]; };
        if (started[i] || !std::ranges::all_of(needs_[i], before) ||
            !std::ranges::all_of(after_[i], before)) {
          continue;
        }
        started[i] = more = true;
      }
    }
    if (const auto stuck = std::ranges::find(started, false); stuck != started.end()) {
      fail("waits for itself", tasks_[static_cast<size_t>(stuck - started.begin())].id);
    }
  }

  void worker() {
    std::unique_lock lock(mutex_);
    try {
      for (size_t i; wait_for_task(lock, i);) {
        statuses_[i].state = TaskState::kRunning;
        memory_ += tasks_[i].gigabytes;
        ++running_;
        changed();
        lock.unlock();
        const TaskStatus status = perform(tasks_[i]);
        lock.lock();
        statuses_[i] = status;
        memory_ -= tasks_[i].gigabytes;
        --running_;
        changed();
      }
    } catch (...) {  // from on_change or on_report: the other workers end too
      if (!lock.owns_lock()) lock.lock();
      given_up_ = true;
      changed_.notify_all();
      throw;
    }
  }

  void changed() {
    changed_.notify_all();
    if (options_.on_change) options_.on_change(statuses_);
  }

  // Waits until a task may start; false: none is left.
  bool wait_for_task(std::unique_lock<std::mutex>& lock, size_t& found) {
    for (;;) {
      if (given_up_ || options_.stop.stop_requested()) return false;
      if (fail_dependents()) changed();
      bool waiting = false;
      for (size_t i = 0; i < tasks_.size(); ++i) {
        if (statuses_[i].state != TaskState::kWaiting) continue;
        waiting = true;
        if (may_start(i)) {
          found = i;
          return true;
        }
      }
      if (!waiting) return false;
      changed_.wait(lock);
    }
  }

  // Fails what needs a failed task, and what needs that. Whether there was any.
  bool fail_dependents() {
    bool any = false;
    for (bool more = true; more;) {
      more = false;
      for (size_t i = 0; i < tasks_.size(); ++i) {
        if (statuses_[i].state != TaskState::kWaiting) continue;
        for (size_t other : needs_[i]) {
          if (statuses_[other].state != TaskState::kFailed) continue;
          statuses_[i] = {TaskState::kFailed, "needs " + tasks_[other].id +
                                                  ", which failed: " + statuses_[other].reason};
          any = more = true;
          break;
        }
      }
    }
    return any;
  }

  bool may_start(size_t i) const {
    if (running_ > 0 && memory_ + tasks_[i].gigabytes > budget_) return false;
    return std::ranges::all_of(needs_[i],
                               [&](size_t n) { return statuses_[n].state == TaskState::kDone; }) &&
           std::ranges::all_of(after_[i], [&](size_t a) { return ended(a); });
  }

  TaskStatus perform(const Task& task) {
    TaskContext context(options_.stop, task.cost, [&](double cost, const std::string& note) {
      std::lock_guard lock(report_mutex_);
      if (options_.on_report) options_.on_report(task, cost, note);
    });
    TaskStatus status{TaskState::kDone, ""};
    try {
      task.run(context);
    } catch (const Stopped&) {
      return {TaskState::kStopped, ""};
    } catch (const std::exception& e) {
      status = {TaskState::kFailed, e.what()};
    }
    std::lock_guard lock(report_mutex_);
    if (options_.on_report) options_.on_report(task, context.left(), "");  // it was overestimated
    return status;
  }

  const std::vector<Task>& tasks_;
  const ExecutorOptions& options_;
  const double budget_;                             // GB
  std::vector<std::vector<size_t>> needs_, after_;  // indices, of each task

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::vector<TaskStatus> statuses_;
  double memory_ = 0;  // GB
  int running_ = 0;
  bool given_up_ = false;
  std::mutex report_mutex_;  // one on_report at a time
};

}  // namespace

TaskContext::TaskContext(std::stop_token stop, double expected, Listen listen)
    : stop_(std::move(stop)), expected_(expected), listen_(std::move(listen)) {}

void TaskContext::report(double cost, const std::string& note) {
  if (stop_.stop_requested()) throw Stopped();
  std::lock_guard lock(mutex_);
  const double news = std::clamp(expected_ - reported_, 0.0, cost);
  reported_ += news;
  if (news > 0 || !note.empty()) listen_(news, note);
}

double TaskContext::left() const {
  std::lock_guard lock(mutex_);
  return expected_ - reported_;
}

std::vector<TaskStatus> initial_statuses(const std::vector<Task>& tasks) {
  std::vector<TaskStatus> statuses;
  for (const Task& task : tasks) {
    statuses.push_back(task.done             ? TaskStatus{TaskState::kDone, ""}
                       : task.failed.empty() ? TaskStatus{}
                                             : TaskStatus{TaskState::kFailed, task.failed});
  }
  return statuses;
}

std::vector<TaskStatus> run_tasks(const std::vector<Task>& tasks, const ExecutorOptions& options) {
  return Executor(tasks, options).run();
}

}  // namespace ens
