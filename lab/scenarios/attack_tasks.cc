// SPDX-License-Identifier: Apache-2.0
#include "lab/scenarios/attack_tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/progress.h"
#include "experiment/run_dir.h"
#include "proto/config.h"
#include "proto/results.h"

namespace ens {

namespace fs = std::filesystem;

int run_attack_tasks(const Scenario& scenario, const std::vector<ScenarioRun>& runs, bool again,
                     std::stop_token stop) {
  if (again) {
    for (const ScenarioRun& run : runs) {
      for (const std::string& attack : run.attacks) {
        fs::remove(run.folder / "attack" / attack / "result.json");
      }
    }
  }
  const std::vector<Task> tasks = scenario.tasks(runs, {});
  const auto to_do = std::ranges::count(tasks, false, &Task::done);
  for (const Task& task : tasks) {
    if (task.done && !task.needs.empty()) fmt::print(stderr, "{}: done already\n", task.id);
  }
  if (to_do == 0) return 0;
  Progress progress(fmt::format("{} attack{}", to_do, to_do == 1 ? "" : "s"), to_do, "attacks");
  ExecutorOptions options;
  options.stop = stop;
  options.on_report = [&](const Task&, double, const std::string& note) { progress.note(note); };
  int64_t ended = std::ssize(tasks) - to_do;
  options.on_change = [&](const std::vector<TaskStatus>& statuses) {
    const int64_t now = std::ranges::count_if(statuses, [](const TaskStatus& status) {
      return status.state == TaskState::kDone || status.state == TaskState::kFailed;
    });
    progress.add(now - ended);
    ended = now;
  };
  const std::vector<TaskStatus> statuses = run_tasks(tasks, options);
  progress.finish();
  for (size_t i = 0; i < tasks.size(); ++i) {
    if (statuses[i].state == TaskState::kFailed) {
      fmt::print(stderr, "{}: {}\n", tasks[i].id, statuses[i].reason);
    }
  }
  const auto count = [&](TaskState state) {
    return static_cast<int>(std::ranges::count(statuses, state, &TaskStatus::state));
  };
  if (count(TaskState::kStopped) + count(TaskState::kWaiting) > 0) throw Stopped();
  return count(TaskState::kFailed);
}

RunConfig attacked_config(const std::filesystem::path& folder, RunConfig wanted) {
  RunConfig config = read_run_config(folder);
  if (!wanted.data().root().empty()) config.mutable_data()->set_root(wanted.data().root());
  if (wanted.has_device()) config.set_device(wanted.device());
  complete(wanted);
  *config.mutable_attack() = wanted.attack();
  return config;
}

bool has_result(const std::filesystem::path& folder, const std::string& attack,
                const AttackConfig& settings) {
  results::AttackResult before;
  return results::read_if_intact(folder / "attack" / attack / "result.json", before) &&
         !before.has_error() && before.settings() == to_text(settings);
}

}  // namespace ens
