// SPDX-License-Identifier: Apache-2.0
// Trainings and attacks that are stopped from another thread and started again.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/files.h"
#include "base/progress.h"
#include "experiment/task_graph.h"
#include "lab/scenarios/split.h"
#include "lab/scenarios/split_attacks.h"
#include "tests/ensemble/train/same_run.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

ScenarioRun run_in(const fs::path& folder) {
  ScenarioRun run;
  run.folder = folder;
  parse_config(R"(
      dtype: "float32"
      data { name: "shapes" train_limit: 640 test_limit: 128 }
      model { width: 8 }
      ensemble { nets: 2 selected: 1 insecure_seeded_secrets: true }
      stage1 { epochs: 3 batch: 64 lr: 0.05 }
      stage2 { epochs: 2 batch: 64 lr: 0.05 }
      attack { public_images: 320 public_source: "training" scored_images: 16 reference_images: 0
        decoder { epochs: 4 channels: 16 blocks: 1 } })",
               "test", run.config);
  complete(run.config);
  run.attacks = {"oracle"};
  return run;
}

Task find(const ScenarioRun& run, const std::string& id) {
  for (Task& task : split_scenario().tasks({run}, {})) {
    if (task.id == id) {
      task.needs.clear();
      return task;
    }
  }
  ADD_FAILURE() << "no task " << id;
  return {};
}

// Whole: no stop. Otherwise stops it from another thread after so many reports, and measures how
// long that takes: seconds until it has ended.
TaskStatus run(const Task& task, int stop_after, double& took) {
  std::stop_source source;
  std::mutex mutex;
  std::condition_variable reached;
  int reports = 0;
  ExecutorOptions options;
  options.stop = source.get_token();
  options.on_report = [&](const Task&, double, const std::string&) {
    std::lock_guard lock(mutex);
    ++reports;
    reached.notify_all();
  };
  Clock::time_point asked;
  std::jthread other([&] {
    if (stop_after == 0) return;
    std::unique_lock lock(mutex);
    reached.wait_for(lock, std::chrono::minutes(2), [&] { return reports >= stop_after; });
    asked = Clock::now();
    source.request_stop();
  });
  const TaskStatus status = run_tasks({task}, options)[0];
  const auto ended = Clock::now();
  other.join();
  took = std::chrono::duration<double>(ended - asked).count();
  return status;
}

// A step takes some milliseconds here, so a stop does too; the bound is for machines with much else
// to do. A task that ignores the stop would be done instead.
constexpr double kSoon = 10;

TEST(TaskStopTest, AStoppedTrainingGoesOnToTheSameWeights) {
  test::TempDir temp;
  const ScenarioRun whole = run_in(temp / "whole"), stopped = run_in(temp / "stopped");
  double took = 0;
  ASSERT_EQ(run(find(whole, "train"), 0, took).state, TaskState::kDone);
  // In stage 1's first epoch, then later in what is left.
  for (int reports : {5, 25, 35}) {
    const TaskStatus status = run(find(stopped, "train"), reports, took);
    ASSERT_EQ(status.state, TaskState::kStopped) << reports << ": " << status.reason;
    EXPECT_LT(took, kSoon) << reports;
    RecordProperty("seconds_after_" + std::to_string(reports), std::to_string(took));
    ASSERT_FALSE(fs::exists(stopped.folder / "DONE"));
  }
  ASSERT_EQ(run(find(stopped, "train"), 0, took).state, TaskState::kDone);
  test::expect_same_run(whole.folder, stopped.folder);
}

TEST(TaskStopTest, AStoppedAttackLeavesNothingAndEndsInTheSameResult) {
  test::TempDir temp;
  const ScenarioRun attacked = run_in(temp / "run");
  double took = 0;
  ASSERT_EQ(run(find(attacked, "train"), 0, took).state, TaskState::kDone);
  const TaskStatus status = run(find(attacked, "attack/oracle"), 5, took);
  ASSERT_EQ(status.state, TaskState::kStopped) << status.reason;
  EXPECT_LT(took, kSoon);
  RecordProperty("seconds", std::to_string(took));
  const fs::path file = attacked.folder / "attack/oracle/result.json";
  EXPECT_FALSE(fs::exists(file));
  EXPECT_FALSE(find(attacked, "attack/oracle").done);

  const auto result = [&] {
    EXPECT_EQ(run(find(attacked, "attack/oracle"), 0, took).state, TaskState::kDone);
    EXPECT_TRUE(find(attacked, "attack/oracle").done);
    auto json = nlohmann::json::parse(read_file(file));
    json.erase("seconds");
    for (auto& round : json.at("rounds")) round.erase("cpu_seconds");
    fs::remove(file);
    return json;
  };
  const auto first = result();
  EXPECT_EQ(first, result());
  EXPECT_FALSE(first.contains("error")) << first;
}

TEST(RunAttacks, OnceEachAndCountingFailures) {
  test::TempDir temp;
  const ScenarioRun attacked = run_in(temp / "run");
  double took = 0;
  ASSERT_EQ(run(find(attacked, "train"), 0, took).state, TaskState::kDone);
  const AttackJob mean{attacked.folder, "mean-image", {}};
  EXPECT_EQ(run_attacks({mean, mean}, attacked.config, false), 0);
  EXPECT_TRUE(attack_done(attacked.folder, "mean-image", attacked.config, false));
  // A feature of another shape fails its attack alone.
  const AttackJob wrong{attacked.folder, "oracle", Tensor::zeros({1, 1, 1, 1})};
  EXPECT_EQ(run_attacks({wrong, mean}, attacked.config, /*again=*/true), 1);
  EXPECT_TRUE(attack_done(attacked.folder, "mean-image", attacked.config, false));
  EXPECT_FALSE(attack_done(attacked.folder, "oracle", attacked.config, true));

  std::stop_source source;
  source.request_stop();
  EXPECT_THROW(run_attacks({mean}, attacked.config, true, source.get_token()), Stopped);
}

}  // namespace
}  // namespace ens
