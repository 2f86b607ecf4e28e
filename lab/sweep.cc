// SPDX-License-Identifier: Apache-2.0
#include "lab/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "base/lock.h"
#include "base/notice.h"
#include "base/progress.h"
#include "base/strings.h"
#include "base/threads.h"
#include "experiment/run_dir.h"
#include "lab/config_flags.h"
#include "lab/scenarios/disguise.h"
#include "proto/results.h"
#include "report/report.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

// ---- from a configuration to cells

std::string safe_name(const std::string& text) {
  std::string out;
  for (char c : text) {
    const bool fine =
        std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-' || c == '=';
    out += fine ? c : '-';
  }
  return out.empty() ? "cell" : out;
}

std::string last_part(const std::string& path, char separator = '.') {
  return path.substr(path.rfind(separator) + 1);
}

using Assignment = std::pair<std::string, std::string>;  // path, value

// Every combination, the last axis fastest.
std::vector<std::vector<Assignment>> combinations(const std::vector<Axis>& axes) {
  std::vector<std::vector<Assignment>> all{{}};
  for (const Axis& axis : axes) {
    if (axis.path().empty() || axis.value_size() == 0) {
      usage_fail("an axis needs a path and at least one value", "axis '" + axis.path() + "'");
    }
    std::vector<std::vector<Assignment>> longer;
    for (const auto& head : all) {
      for (const std::string& value : axis.value()) {
        longer.push_back(head);
        longer.back().push_back({axis.path(), value});
      }
    }
    all = std::move(longer);
  }
  return all;
}

SweepCell make_cell(const SweepConfig& sweep, const Row& row, const std::vector<Assignment>& values,
                    const std::string& data_root) {
  SweepCell cell;
  RunConfig config = sweep.base();
  if (!data_root.empty()) config.mutable_data()->set_root(data_root);
  apply_overrides({row.set().begin(), row.set().end()}, config);
  for (const auto& [path, value] : values) {
    apply_overrides({path + "=" + value}, config);
    cell.values[path] = value;
  }
  try {
    complete(config);
  } catch (const Error& e) {
    cell.skipped = e.what();
  }
  cell.config = config;
  cell.row = !row.name().empty()    ? row.name()
             : is_disguised(config) ? config.disguise().method()
                                    : config.protection().kind();
  cell.folder = safe_name(cell.row);
  for (const auto& [path, value] : values) {
    cell.folder += "_" + safe_name(last_part(path) + "=" + value);
  }
  const auto& attacks = row.attack_size() > 0 ? row.attack() : sweep.attack();
  cell.attacks =
      scenario_of(config).attacks({attacks.begin(), attacks.end()}, config.attack().tier());
  return cell;
}

// ---- running

constexpr const char* kSweepFile = "sweep.txtpb";

// For `ensembler task`, from any working directory.
void write_sweep_file(SweepConfig config, const fs::path& out) {
  if (const std::string& root = config.base().data().root(); !root.empty()) {
    config.mutable_base()->mutable_data()->set_root(fs::absolute(root).string());
  }
  write_file_atomically(out / kSweepFile, to_text(config), false);
}

// What a sweep's folder is to hold: of the cells that are not skipped, the tasks.
struct SweepTasks {
  SweepTasks(const std::vector<SweepCell>& cells, const fs::path& out, const TaskOptions& options) {
    std::map<const Scenario*, std::vector<ScenarioRun>> runs;
    for (const SweepCell& cell : cells) {
      if (cell.skipped.empty()) {
        runs[&scenario_of(cell.config)].push_back(
            {cell.folder, out / cell.folder, cell.config, cell.attacks});
      }
    }
    for (const auto& [scenario, of_scenario] : runs) {
      std::ranges::move(scenario->tasks(of_scenario, options), std::back_inserter(tasks));
    }
  }

  // The indices of a cell's tasks: its training first.
  std::vector<size_t> of(const SweepCell& cell) const {
    std::vector<size_t> found;
    for (size_t i = 0; i < tasks.size(); ++i) {
      if (tasks[i].id.starts_with(task_prefix(cell.folder))) found.push_back(i);
    }
    return found;
  }

  results::SweepState::Cell state(const SweepCell& cell,
                                  const std::vector<TaskStatus>& statuses) const {
    std::string status = cell.skipped.empty() ? "done" : "skipped", reason = cell.skipped;
    for (size_t i : of(cell)) {
      const bool training = tasks[i].needs.empty();
      if (statuses[i].state == TaskState::kFailed) {
        if (status == "failed") continue;  // the first reason counts
        status = "failed";
        reason = (training ? "" : last_part(tasks[i].id, '/') + ": ") + statuses[i].reason;
      } else if (status == "done" && statuses[i].state != TaskState::kDone) {
        status = "unfinished";
      }
    }
    results::SweepState::Cell out;
    out.set_folder(cell.folder);
    out.set_row(cell.row);
    out.mutable_values()->insert(cell.values.begin(), cell.values.end());
    out.mutable_attacks()->Assign(cell.attacks.begin(), cell.attacks.end());
    out.set_status(status);
    out.set_reason(reason);
    return out;
  }

  std::vector<Task> tasks;  // a training before its attacks
};

// Counts estimated milliseconds of compute, so that unlike tasks add up.
class TaskProgress {
 public:
  TaskProgress(const std::string& label, double seconds)
      : progress_(label, std::max<int64_t>(static_cast<int64_t>(seconds * 1000), 1),
                  "ms of compute") {}

  void add(double seconds) {
    const int64_t before = static_cast<int64_t>(seconds_ * 1000);
    seconds_ += seconds;
    progress_.add(static_cast<int64_t>(seconds_ * 1000) - before);
  }
  void note(const std::string& text) { progress_.note(text); }
  void finish() { progress_.finish(); }

 private:
  Progress progress_;
  double seconds_ = 0;
};

std::string hours(double seconds) {
  if (seconds < 90) return fmt::format("{:.0f} s", seconds);
  if (seconds < 5400) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

}  // namespace

std::vector<SweepCell> expand(const SweepConfig& sweep, const std::string& data_root) {
  std::vector<Row> rows(sweep.row().begin(), sweep.row().end());
  if (rows.empty()) rows.emplace_back();
  std::vector<SweepCell> cells;
  std::map<std::string, std::string> experiments;  // what is run -> the cell that runs it
  std::set<std::string> folders;
  for (const Row& row : rows) {
    std::vector<Axis> axes(sweep.axis().begin(), sweep.axis().end());
    axes.insert(axes.end(), row.axis().begin(), row.axis().end());
    for (const std::vector<Assignment>& values : combinations(axes)) {
      SweepCell cell = make_cell(sweep, row, values, data_root);
      if (!folders.insert(cell.folder).second) {
        usage_fail("two cells are called '" + cell.folder + "'", "row",
                   "give each row its own name");
      }
      if (cell.skipped.empty()) cell.skipped = scenario_of(cell.config).impossible(cell.config);
      if (cell.skipped.empty()) {
        std::string what =
            scenario_of(cell.config).identity(cell.config) + to_text(cell.config.attack());
        for (const std::string& attack : cell.attacks) what += attack + "\n";
        const auto [first, fresh] = experiments.try_emplace(what, cell.folder);
        if (!fresh) cell.skipped = "the same experiment as " + first->second;
      }
      cells.push_back(std::move(cell));
    }
  }
  return cells;
}

void print_plan(const std::vector<SweepCell>& cells, const SweepOptions& options) {
  const SweepTasks sweep(cells, options.out, {options.reuse, {}});
  double total = 0, most_memory = 0;
  int todo = 0;
  for (const SweepCell& cell : cells) {
    if (!cell.skipped.empty()) {
      fmt::print("{:<44} skipped: {}\n", cell.folder, cell.skipped);
      continue;
    }
    double training = 0, attacking = 0, memory = 0;
    int attacks = 0;
    bool anything = false;
    std::string note;
    for (size_t i : sweep.of(cell)) {
      const Task& task = sweep.tasks[i];
      if (!task.failed.empty()) fail(task.failed, cell.folder);
      if (task.done) continue;
      anything = true;
      memory = task.gigabytes;
      if (task.needs.empty()) {
        training = task.cost;
        if (!task.note.empty()) note = " (" + task.note + ")";
      } else {
        attacking += task.cost;
        ++attacks;
      }
    }
    if (!anything) {
      fmt::print("{:<44} done\n", cell.folder);
      continue;
    }
    ++todo;
    total += training + attacking;
    most_memory = std::max(most_memory, memory);
    fmt::print("{:<44} training {:>7}{}, {} attacks {:>7}, {:.1f} GB\n", cell.folder,
               hours(training), note, attacks, hours(attacking), memory);
  }
  const int threads = compute_threads();
  fmt::print(
      "\n{} of {} cells to do: about {} of compute on one thread, {} on the {} threads here; up to "
      "{:.1f} GB a cell\n(estimated from training steps measured now, within a factor of two)\n",
      todo, cells.size(), hours(total), hours(total / threads), threads, most_memory);
}

namespace {

// One process at a time runs a sweep's folder: two would each take the other's cells for failed. A
// second one waits, and then finds done what the first has done.
FileLock wait_for_turn(const fs::path& out, const std::stop_token& stop) {
  const fs::path file = out / "RUNNING";
  FileLock held = FileLock::try_once(file);
  if (!held.taken()) return held;
  notice(fmt::format("{}: process {} runs this sweep; waiting for it to end", out.string(),
                     held.owner()));
  while (held.taken()) {
    if (stop.stop_requested()) throw Stopped();
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    held = FileLock::try_once(file);
  }
  return held;
}

}  // namespace

int run_sweep(const SweepConfig& config, const SweepOptions& options) {
  const std::vector<SweepCell> cells = expand(config, "");
  fs::create_directories(options.out);
  const FileLock turn = wait_for_turn(options.out, options.stop);
  const SweepTasks sweep(cells, options.out, {options.reuse, {}});
  write_sweep_file(config, options.out);
  const auto finished = std::ranges::count_if(cells, [&](const SweepCell& cell) {
    return cell.skipped.empty() &&
           std::ranges::all_of(sweep.of(cell), [&](size_t i) { return sweep.tasks[i].done; });
  });
  if (finished > 0) {
    notice(fmt::format("{} of {} cells are done already", finished, cells.size()));
  }
  const auto write_state = [&](const std::vector<TaskStatus>& statuses) {
    results::SweepState state;
    state.set_title(config.title());
    state.set_command(command_line());
    for (const SweepCell& cell : cells) *state.add_cells() = sweep.state(cell, statuses);
    results::write(options.out / "sweep.json", state);
  };
  std::vector<TaskStatus> statuses = initial_statuses(sweep.tasks);
  write_state(statuses);
  // Of what was not done before.
  const auto count = [&](const std::vector<TaskStatus>& all, auto... states) {
    int counted = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      counted += !sweep.tasks[i].done && ((all[i].state == states) || ...);
    }
    return counted;
  };
  const auto total = std::ranges::count_if(sweep.tasks, [](const Task& t) { return !t.done; });
  if (total > 0) {
    double seconds = 0;
    for (const Task& task : sweep.tasks) seconds += task.done ? 0 : task.cost;
    TaskProgress progress("sweep", seconds);
    std::mutex mutex;  // of the line: states change while others report
    std::string summary;
    const auto update = [&](const std::vector<TaskStatus>& now) {
      summary = fmt::format("{}/{} trainings and attacks",
                            count(now, TaskState::kDone, TaskState::kFailed), total);
    };
    update(statuses);
    ExecutorOptions executor;
    executor.jobs = options.jobs;
    executor.gigabytes = options.memory_gb;
    executor.stop = options.stop;
    executor.on_change = [&](const std::vector<TaskStatus>& now) {
      write_state(now);
      std::lock_guard lock(mutex);
      update(now);
      progress.note(summary);
    };
    executor.on_report = [&](const Task& task, double done, const std::string& note) {
      std::lock_guard lock(mutex);
      progress.add(done);
      if (note.empty()) return;
      progress.note(summary + "  " + task.id.substr(0, task.id.find('/')) + ": " + note);
    };
    statuses = run_tasks(sweep.tasks, executor);
    progress.note(summary);
    progress.finish();
  }
  write_state(statuses);
  if (options.stop.stop_requested() && count(statuses, TaskState::kWaiting, TaskState::kStopped)) {
    throw Stopped();
  }
  write_report({options.out}, options.out / "report.html");
  return count(statuses, TaskState::kFailed);
}

// ---- one task

struct TaskFolder::Impl {
  Impl(const fs::path& folder_, const RunConfig& settings) : folder(folder_) {
    if (fs::exists(folder / kSweepFile)) {
      SweepConfig config;
      read_config(folder / kSweepFile, config);
      RunConfig allowed;  // what a sweep's cells leave open
      allowed.mutable_data()->set_root(settings.data().root());
      if (to_text(settings) != to_text(RunConfig()) && to_text(settings) != to_text(allowed)) {
        usage_fail("the settings of a sweep's tasks are in its " + std::string(kSweepFile),
                   folder.string(), "give no flags but --data");
      }
      cells = expand(config, settings.data().root());
      is_sweep = true;
    } else if (is_run(folder)) {
      SweepCell cell;
      cell.config = read_run_config(folder);
      if (!settings.device().empty()) cell.config.set_device(settings.device());
      if (settings.has_data()) cell.config.mutable_data()->MergeFrom(settings.data());
      cell.config.mutable_attack()->MergeFrom(settings.attack());
      complete(cell.config);
      // Whichever is asked for by its id.
      cell.attacks = scenario_of(cell.config).attacks({}, "full");
      cells.push_back(cell);
    } else if (fs::exists(folder / "sweep.json")) {
      usage_fail("this sweep was run by a version that did not keep " + std::string(kSweepFile),
                 folder.string(),
                 "run the sweep again: ensembler sweep ... --out " + folder.string());
    } else {
      usage_fail("holds neither a sweep nor a run", folder.string(),
                 "make one: ensembler sweep --out, ensembler train --out");
    }
  }

  // With the costs of one run's tasks, or of none.
  SweepTasks tasks(const std::string& estimated) const {
    TaskOptions options;
    options.estimate = [&](const ScenarioRun& run) {
      return !estimated.empty() && estimated.starts_with(task_prefix(run.name));
    };
    return SweepTasks(cells, folder, options);
  }

  const SweepCell& cell_of(const std::string& id) const {
    return *std::ranges::find_if(
        cells, [&](const SweepCell& cell) { return id.starts_with(task_prefix(cell.folder)); });
  }

  // Puts one cell's state into the sweep's, which others may be changing too.
  void update(const results::SweepState::Cell& cell) const {
    const FileLock lock = FileLock::wait_for(folder / "sweep.lock");
    results::SweepState state;
    if (!results::read_if_intact(folder / "sweep.json", state)) return;  // the next sweep makes it
    for (results::SweepState::Cell& before : *state.mutable_cells()) {
      if (before.folder() == cell.folder()) before = cell;
    }
    results::write(folder / "sweep.json", state);
  }

  const fs::path folder;
  bool is_sweep = false;
  std::vector<SweepCell> cells;  // of a run: one whose folder is the run's own, ""
};

TaskFolder::TaskFolder(const fs::path& folder, const RunConfig& settings)
    : impl_(std::make_unique<Impl>(folder, settings)) {}
TaskFolder::~TaskFolder() = default;

std::vector<TaskFolder::Line> TaskFolder::list() const {
  const SweepTasks sweep = impl_->tasks("");
  std::map<std::string, std::string> reasons;  // of cells that failed in the last sweep
  results::SweepState state;
  if (impl_->is_sweep && results::read_if_intact(impl_->folder / "sweep.json", state)) {
    for (const auto& cell : state.cells()) {
      if (cell.status() == "failed") reasons[cell.folder()] = cell.reason();
    }
  }
  std::vector<Line> lines;
  for (const SweepCell& cell : impl_->cells) {
    if (!cell.skipped.empty()) lines.push_back({cell.folder, "skipped", cell.skipped});
    bool trained = false;
    for (size_t i : sweep.of(cell)) {
      const Task& task = sweep.tasks[i];
      if (task.needs.empty()) trained = task.done;
      lines.push_back({task.id, task.done ? "done" : "to do", ""});
      if (!task.done && !task.needs.empty() && !trained) lines.back().state = "waits";
      if (task.needs.empty() && reasons.contains(cell.folder)) {
        lines.back().reason = "the last sweep failed: " + reasons[cell.folder];
      }
    }
  }
  return lines;
}

bool TaskFolder::run(const std::string& id, std::stop_token stop) {
  const SweepTasks sweep = impl_->tasks(id);
  const auto find = [&](const std::string& wanted) {
    return std::ranges::find(sweep.tasks, wanted, &Task::id);
  };
  const auto task = find(id);
  if (task == sweep.tasks.end()) {
    std::vector<std::string> ids;
    for (const Task& other : sweep.tasks) ids.push_back(other.id);
    const std::string nearest = nearest_word(id, ids);
    usage_fail("no task '" + id + "'", impl_->folder.string(),
               nearest.empty() ? "list them: ensembler task " + impl_->folder.string()
                               : "did you mean '" + nearest + "'?");
  }
  if (task->done) return false;
  for (const std::string& need : task->needs) {
    if (!find(need)->done) {
      usage_fail("task '" + id + "' needs '" + need + "', which is not done",
                 impl_->folder.string(),
                 "first: ensembler task " + impl_->folder.string() + " " + need);
    }
  }
  const fs::path run = impl_->folder / impl_->cell_of(id).folder;
  if (run_in_use(run)) {
    usage_fail("another process works in this run", run.string(), "wait for it to end");
  }
  std::vector<Task> alone{*task};
  alone[0].needs.clear();
  alone[0].after.clear();
  TaskProgress progress(id, task->cost);
  ExecutorOptions options;
  options.stop = stop;
  options.on_report = [&](const Task&, double seconds, const std::string& note) {
    progress.add(seconds);
    if (!note.empty()) progress.note(note);
  };
  const TaskStatus status = run_tasks(alone, options)[0];
  progress.finish();
  if (impl_->is_sweep) {
    std::vector<TaskStatus> statuses = initial_statuses(sweep.tasks);
    statuses[static_cast<size_t>(task - sweep.tasks.begin())] = status;
    impl_->update(sweep.state(impl_->cell_of(id), statuses));
  }
  if (status.state == TaskState::kFailed) fail(status.reason, id);
  if (status.state != TaskState::kDone) throw Stopped();
  return true;
}

}  // namespace ens
