// SPDX-License-Identifier: Apache-2.0
// The executor of tasks, with tasks that train nothing.
#include "experiment/task_graph.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "base/error.h"

namespace ens {
namespace {

using namespace std::chrono_literals;

// What the tasks of a test did.
class TaskGraphTest : public testing::Test {
 protected:
  Task task(
      const std::string& id, std::vector<std::string> needs = {},
      std::function<void(TaskContext&)> run = [](TaskContext&) {
        std::this_thread::sleep_for(10ms);
      }) {
    Task made;
    made.id = id;
    made.needs = std::move(needs);
    made.run = [this, id, run](TaskContext& context) {
      {
        std::lock_guard lock(mutex_);
        log_.push_back("+" + id);
        most_ = std::max(most_, ++running_);
        if (running_ > 1) ++overlaps_;
      }
      const std::shared_ptr<void> end(nullptr, [&](void*) {
        std::lock_guard lock(mutex_);
        log_.push_back("-" + id);
        --running_;
      });
      run(context);
    };
    return made;
  }
  static void fails(TaskContext&) { fail("no luck"); }

  // Where something is in the log; -1 if it is not.
  ptrdiff_t at(const std::string& entry) const {
    const auto found = std::ranges::find(log_, entry);
    return found == log_.end() ? -1 : found - log_.begin();
  }
  static std::vector<TaskState> states(const std::vector<TaskStatus>& statuses) {
    std::vector<TaskState> out;
    for (const TaskStatus& status : statuses) out.push_back(status.state);
    return out;
  }
  static ExecutorOptions jobs(int n) {
    ExecutorOptions options;
    options.jobs = n;
    options.gigabytes = 100;
    return options;
  }

  std::mutex mutex_;
  std::vector<std::string> log_;  // "+id" it started, "-id" it ended
  int running_ = 0, most_ = 0;
  int overlaps_ = 0;  // starts while another ran
};

constexpr TaskState kDone = TaskState::kDone, kFailed = TaskState::kFailed;

TEST_F(TaskGraphTest, ATaskStartsWhenWhatItNeedsIsDone) {
  // In an order that only the needs can put right.
  const auto until_d_has_started = [this](TaskContext&) {
    for (int i = 0; i < 1000; ++i) {
      std::this_thread::sleep_for(10ms);
      std::lock_guard lock(mutex_);
      if (at("+d") >= 0) return;
    }
  };
  const std::vector<Task> tasks{task("c", {"b"}), task("b", {"a"}),
                                task("a", {}, until_d_has_started), task("d")};
  const auto statuses = run_tasks(tasks, jobs(3));
  EXPECT_EQ(states(statuses), std::vector<TaskState>(4, kDone));
  EXPECT_EQ(log_.size(), 8u);  // each once
  EXPECT_LT(at("-a"), at("+b"));
  EXPECT_LT(at("-b"), at("+c"));
  EXPECT_LT(at("+d"), at("+b"));  // waits for nobody
  EXPECT_GE(most_, 2);
}

TEST_F(TaskGraphTest, TheFirstThatMayStartStartsFirst) {
  run_tasks({task("a"), task("b"), task("c")}, jobs(1));
  EXPECT_EQ(log_, (std::vector<std::string>{"+a", "-a", "+b", "-b", "+c", "-c"}));
}

TEST_F(TaskGraphTest, JobsBoundWhatRunsAtOnce) {
  std::vector<Task> tasks;
  for (int i = 0; i < 8; ++i) tasks.push_back(task(std::to_string(i)));
  run_tasks(tasks, jobs(3));
  EXPECT_EQ(most_, 3);
}

TEST_F(TaskGraphTest, MemoryBoundsWhatRunsAtOnceUnlessNothingRuns) {
  std::vector<Task> tasks;
  for (int i = 0; i < 6; ++i) {
    tasks.push_back(task(std::to_string(i)));
    tasks.back().gigabytes = 4;
  }
  ExecutorOptions options = jobs(6);
  options.gigabytes = 9;
  run_tasks(tasks, options);
  EXPECT_EQ(most_, 2);
  EXPECT_GE(overlaps_, 3);  // what has ended needs no memory

  most_ = 0;
  options.gigabytes = 1;  // each alone is too large
  const auto statuses = run_tasks(tasks, options);
  EXPECT_EQ(states(statuses), std::vector<TaskState>(6, kDone));
  EXPECT_EQ(most_, 1);
}

TEST_F(TaskGraphTest, AFailureIsPassedOnToWhatNeedsItAndToNothingElse) {
  const auto statuses =
      run_tasks({task("a", {}, fails), task("b", {"a"}), task("c", {"b"}), task("d")}, jobs(2));
  EXPECT_EQ(states(statuses), (std::vector<TaskState>{kFailed, kFailed, kFailed, kDone}));
  EXPECT_EQ(statuses[0].reason, "no luck");
  EXPECT_EQ(statuses[1].reason, "needs a, which failed: no luck");
  EXPECT_NE(statuses[2].reason.find("no luck"), std::string::npos) << statuses[2].reason;
  EXPECT_EQ(statuses[3].reason, "");
  EXPECT_EQ(at("+b"), -1);
  EXPECT_EQ(at("+c"), -1);
}

// Cells of a sweep that share stage 1: each waits until those before it have ended, also if one
// fails; only the wait is shared, not the failure.
TEST_F(TaskGraphTest, WhatComesAfterWaitsForTheEndAndNotForSuccess) {
  std::vector<Task> tasks{task("small"), task("large"), task("middle", {}, fails)};
  tasks[0].after = {"large", "middle"};
  tasks[2].after = {"large"};
  const auto statuses = run_tasks(tasks, jobs(3));
  EXPECT_EQ(log_, (std::vector<std::string>{"+large", "-large", "+middle", "-middle", "+small",
                                            "-small"}));
  EXPECT_EQ(states(statuses), (std::vector<TaskState>{kDone, kDone, kFailed}));
}

TEST_F(TaskGraphTest, WhatIsDoneOrFailedAlreadyIsNotRun) {
  std::vector<Task> tasks{task("a"), task("b", {"a"}), task("c"), task("d", {"c"})};
  tasks[0].done = true;
  tasks[2].failed = "no data";
  const auto statuses = run_tasks(tasks, jobs(2));
  EXPECT_EQ(log_, (std::vector<std::string>{"+b", "-b"}));
  EXPECT_EQ(states(statuses), (std::vector<TaskState>{kDone, kDone, kFailed, kFailed}));
  EXPECT_EQ(statuses[2].reason, "no data");
}

TEST_F(TaskGraphTest, AStopEndsWhatRunsAtItsNextReportAndStartsNothingMore) {
  std::stop_source source;
  std::atomic<int> reports{0};
  const auto endless = [&](TaskContext& context) {
    for (;;) {
      context.report(0.001, "");
      ++reports;
      std::this_thread::sleep_for(1ms);
    }
  };
  ExecutorOptions options = jobs(2);
  options.stop = source.get_token();
  std::jthread other([&] {
    while (reports < 20) std::this_thread::sleep_for(1ms);
    source.request_stop();
  });
  const auto statuses = run_tasks(
      {task("a", {}, endless), task("b", {}, endless), task("c"), task("d", {"a"})}, options);
  EXPECT_EQ(states(statuses), (std::vector<TaskState>{TaskState::kStopped, TaskState::kStopped,
                                                      TaskState::kWaiting, TaskState::kWaiting}));
  EXPECT_EQ(at("+c"), -1);
}

TEST_F(TaskGraphTest, ChangesOfStateAreReported) {
  std::vector<std::vector<TaskState>> seen;
  ExecutorOptions options = jobs(1);
  options.on_change = [&](const std::vector<TaskStatus>& s) { seen.push_back(states(s)); };
  run_tasks({task("a"), task("b", {}, fails)}, options);
  const TaskState w = TaskState::kWaiting, r = TaskState::kRunning;
  EXPECT_EQ(seen, (std::vector<std::vector<TaskState>>{
                      {r, w}, {kDone, w}, {kDone, r}, {kDone, kFailed}}));
}

TEST_F(TaskGraphTest, ReportsAddUpToTheEstimateWhateverATaskSays) {
  std::map<std::string, double> sums;
  std::vector<std::string> notes;
  const auto report = [](int steps) {
    return [steps](TaskContext& context) {
      for (int i = 0; i < steps; ++i) context.report(1, "step " + std::to_string(i));
    };
  };
  std::vector<Task> tasks{task("short", {}, report(2)), task("long", {}, report(9))};
  for (Task& task : tasks) task.cost = 5;
  ExecutorOptions options = jobs(1);
  options.on_report = [&](const Task& task, double seconds, const std::string& note) {
    EXPECT_GE(seconds, 0);
    sums[task.id] += seconds;
    if (!note.empty()) notes.push_back(note);
  };
  run_tasks(tasks, options);
  EXPECT_EQ(sums, (std::map<std::string, double>{{"short", 5}, {"long", 5}}));
  EXPECT_EQ(notes.size(), 11u);
}

// A state that cannot be written ends the sweep instead of leaving threads that wait for ever.
TEST_F(TaskGraphTest, AnErrorOfTheCallerComesOut) {
  ExecutorOptions options = jobs(3);
  options.on_change = [&](const std::vector<TaskStatus>& s) {
    if (s[0].state == kDone) fail("the disk is full");
  };
  EXPECT_THROW(run_tasks({task("a"), task("b", {"a"}), task("c", {"b"})}, options), Error);
  EXPECT_EQ(at("+b"), -1);
}

TEST_F(TaskGraphTest, GraphsThatCannotBeRunAreRefused) {
  EXPECT_THROW(run_tasks({task("a"), task("a")}, jobs(1)), Error);
  EXPECT_THROW(run_tasks({task("a", {"x"})}, jobs(1)), Error);
  EXPECT_THROW(run_tasks({task("a", {"b"}), task("b", {"a"})}, jobs(1)), Error);
  EXPECT_TRUE(log_.empty());
}

}  // namespace
}  // namespace ens
