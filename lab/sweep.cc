#include "lab/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <set>

#include "attacks/split/registry.h"
#include "base/error.h"
#include "base/files.h"
#include "base/progress.h"
#include "base/threads.h"
#include "ensemble/train/setup.h"
#include "ensemble/train/trainer.h"
#include "experiment/run_dir.h"
#include "lab/config_flags.h"
#include "lab/datasets.h"
#include "lab/estimate.h"
#include "lab/scenarios/split_attacks.h"
#include "lab/scenarios/split_training.h"
#include "proto/results.h"
#include "proto/results.pb.h"
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

std::string last_part(const std::string& path) { return path.substr(path.rfind('.') + 1); }

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
  cell.row = row.name().empty() ? config.protection().kind() : row.name();
  cell.folder = safe_name(cell.row);
  for (const auto& [path, value] : values) {
    cell.folder += "_" + safe_name(last_part(path) + "=" + value);
  }
  const auto& attacks = row.attack_size() > 0 ? row.attack() : sweep.attack();
  cell.attacks.assign(attacks.begin(), attacks.end());
  if (cell.attacks.empty()) cell.attacks = attack_names();
  for (const std::string& attack : cell.attacks) make_attack(attack);  // usage Error if unknown
  return cell;
}

// Without the data set: its channels and classes do not decide whether a split is possible.
std::string impossible_split(const RunConfig& config) {
  ModelSpec spec;
  spec.architecture = config.model().architecture();
  spec.width = config.model().width();
  spec.stem_pool = config.model().stem_pool();
  if (config.data().image_size() > 0) spec.image_size = config.data().image_size();
  try {
    check(spec, split_of(config));
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

// ---- running

enum class State { kWaiting, kRunning, kDone, kFailed };

// A training, or one attack on what it trained.
struct Task {
  size_t cell = 0;
  int attack = -1;  // index in the cell's attacks; -1: the training
  State state = State::kWaiting;
  double seconds = 0;          // estimated, of compute
  std::string reason;          // kFailed
  bool shares_stage1 = false;  // a training: an earlier one has its nets
};

class Sweep {
 public:
  Sweep(const std::vector<SweepCell>& cells, const SweepOptions& options)
      : cells_(cells), options_(options), estimator_(options.data_root) {
    for (const SweepCell& cell : cells_) {
      stage1_.push_back(cell.skipped.empty() ? stage1_identity(cell.config) : "");
    }
    targets_.resize(cells_.size());
    for (const fs::path& other : options_.reuse) find_donors(other);
    plan();
  }

  void print_plan() const;

  int run() {
    fs::create_directories(options_.out);
    if (finished_before_ > 0) {
      fmt::print(stderr, "{} of {} cells are done already\n", finished_before_, cells_.size());
    }
    write_state();
    if (!tasks_.empty()) work();
    write_state();
    int failures = 0;
    for (const Task& task : tasks_) failures += task.state == State::kFailed;
    return failures;
  }

 private:
  fs::path folder(size_t cell) const { return options_.out / cells_[cell].folder; }
  bool trained(size_t cell) const { return fs::exists(folder(cell) / "DONE"); }

  void plan() {
    std::set<std::string> seen;  // identities of stage 1
    for (size_t c = 0; c < cells_.size(); ++c) {
      const SweepCell& cell = cells_[c];
      costs_.emplace_back();
      if (!cell.skipped.empty()) continue;
      const bool shared = !seen.insert(stage1_[c]).second || outside_.contains(stage1_[c]);
      std::vector<std::string> missing;
      for (const std::string& attack : cell.attacks) {
        if (!attack_done(folder(c), attack, cell.config, false)) missing.push_back(attack);
      }
      if (trained(c) && missing.empty()) {
        ++finished_before_;
        continue;
      }
      try {
        costs_[c] = estimator_.estimate(cell.config, missing);
      } catch (const std::exception& e) {  // no data, an impossible network: the cell's failure
        tasks_.push_back({c, -1, State::kFailed, 0, e.what()});
        continue;
      }
      if (!trained(c)) {
        tasks_.push_back({c, -1, State::kWaiting,
                          (shared ? 0 : costs_[c].stage1_seconds) + costs_[c].stage2_seconds, "",
                          shared});
      }
      for (size_t a = 0; a < cell.attacks.size(); ++a) {
        if (std::ranges::find(missing, cell.attacks[a]) == missing.end()) continue;
        tasks_.push_back({c, static_cast<int>(a), State::kWaiting,
                          costs_[c].attacks[cell.attacks[a]].seconds, ""});
      }
    }
  }

  void work() {
    int64_t total = 0;
    for (const Task& task : tasks_) total += static_cast<int64_t>(task.seconds * 1000);
    Progress progress("sweep", std::max<int64_t>(total, 1), "ms of work");
    progress_ = &progress;
    const Device where = device();
    // On a GPU a training fills several streams by itself.
    const int all = where.type == Device::Type::kCpu ? compute_threads() : 4;
    const int jobs =
        std::clamp(options_.jobs > 0 ? options_.jobs : all, 1, static_cast<int>(tasks_.size()));
    run_parallel(
        jobs, jobs, [&](int) { worker(); }, where);
    progress.note(summary_line());
    progress.finish();
    progress_ = nullptr;
  }

  // A GPU if any cell wants one.
  Device device() const {
    Device found;
    for (const Task& task : tasks_) {
      if (task.state == State::kFailed) continue;
      const Device wanted = parse_devices(cells_[task.cell].config.device())[0];
      if (wanted.type != Device::Type::kCpu) found = wanted;
    }
    return found;
  }

  std::string summary_line() const {
    const auto ended = std::ranges::count_if(
        tasks_, [](const Task& t) { return t.state == State::kDone || t.state == State::kFailed; });
    return fmt::format("{}/{} trainings and attacks", ended, tasks_.size());
  }

  void worker() {
    for (;;) {
      size_t index = 0;
      {
        std::unique_lock lock(mutex_);
        for (;;) {
          const int found = next_task();
          if (found >= 0) {
            index = static_cast<size_t>(found);
            break;
          }
          if (std::ranges::none_of(tasks_,
                                   [](const Task& t) { return t.state == State::kWaiting; })) {
            return;
          }
          changed_.wait(lock);
        }
        tasks_[index].state = State::kRunning;
        memory_ += costs_[tasks_[index].cell].gigabytes;
      }
      const std::string reason = perform(tasks_[index]);
      {
        std::lock_guard lock(mutex_);
        Task& task = tasks_[index];
        task.state = reason.empty() ? State::kDone : State::kFailed;
        task.reason = reason;
        memory_ -= costs_[task.cell].gigabytes;
        if (std::ranges::none_of(tasks_, [&](const Task& t) {
              return t.cell == task.cell &&
                     (t.state == State::kWaiting || t.state == State::kRunning);
            })) {
          targets_[task.cell].reset();
        }
        progress_->note(summary_line());
        write_state();
      }
      changed_.notify_all();
    }
  }

  // The first task that may start now; -1: none. Fails attacks whose training failed.
  int next_task() {
    for (Task& task : tasks_) {
      if (task.state != State::kWaiting || task.attack < 0) continue;
      if (const Task* training = training_of(task.cell);
          training && training->state == State::kFailed) {
        task.state = State::kFailed;
        task.reason = "the training failed: " + training->reason;
      }
    }
    const bool idle =
        std::ranges::none_of(tasks_, [](const Task& t) { return t.state == State::kRunning; });
    for (size_t i = 0; i < tasks_.size(); ++i) {
      const Task& task = tasks_[i];
      if (task.state != State::kWaiting) continue;
      if (!idle && memory_ + costs_[task.cell].gigabytes > memory_budget()) continue;
      if (task.attack >= 0) {
        const Task* training = training_of(task.cell);
        if (training && training->state != State::kDone) continue;
      } else if (waits_for_stage1(i)) {
        continue;
      }
      return static_cast<int>(i);
    }
    return -1;
  }

  const Task* training_of(size_t cell) const {
    for (const Task& t : tasks_) {
      if (t.cell == cell && t.attack < 0) return &t;
    }
    return nullptr;
  }

  // Another cell is training the same stage 1, or will and has more nets of it.
  bool waits_for_stage1(size_t index) const {
    const auto nets = [&](const Task& t) { return cells_[t.cell].config.ensemble().nets(); };
    const Task& task = tasks_[index];
    for (size_t i = 0; i < tasks_.size(); ++i) {
      const Task& other = tasks_[i];
      if (i == index || other.attack >= 0 || stage1_[other.cell] != stage1_[task.cell]) continue;
      if (other.state == State::kRunning) return true;
      if (other.state == State::kWaiting &&
          (nets(other) > nets(task) || (nets(other) == nets(task) && i < index))) {
        return true;
      }
    }
    return false;
  }

  double memory_budget() {
    if (options_.memory_gb > 0) return options_.memory_gb;
    if (free_memory_ == 0) {
      std::ifstream in("/proc/meminfo");
      std::string word;
      while (in >> word && word != "MemAvailable:") {
      }
      double kilobytes = 4e6;
      in >> kilobytes;
      free_memory_ = 0.8 * kilobytes / 1e6;
    }
    return free_memory_;
  }

  // Progress counts estimated milliseconds of compute, so that unlike tasks add up.
  std::string perform(const Task& task) {
    const SweepCell& cell = cells_[task.cell];
    const Estimator::Cell& cost = costs_[task.cell];
    std::mutex mutex;
    double counted = 0;
    const auto count = [&](double seconds, const std::string& note) {
      std::lock_guard lock(mutex);
      const int64_t before = static_cast<int64_t>(counted * 1000);
      counted = std::min(counted + seconds, task.seconds);
      progress_->add(static_cast<int64_t>(counted * 1000) - before);
      if (!note.empty()) progress_->note(summary_line() + "  " + cell.folder + ": " + note);
    };
    std::string reason;
    try {
      if (task.attack < 0) {
        const ProgressCapture capture(
            [&](const std::string& label, int64_t images, const std::string& note) {
              const bool second = label.starts_with("stage 2");
              count(static_cast<double>(images) *
                        (second ? cost.stage2_per_image : cost.stage1_per_image),
                    note);
            });
        train_run(cell.config, folder(task.cell), donors(task.cell));
      } else {
        const std::string& attack = cell.attacks[static_cast<size_t>(task.attack)];
        const double each = cost.attacks.at(attack).seconds_per_unit;
        reason = target(task.cell)->run(attack, {}, [&](int64_t images, const std::string& note) {
          count(static_cast<double>(images) * each, attack + ", " + note);
        });
      }
    } catch (const std::exception& e) {
      reason = e.what();
    }
    count(task.seconds, "");  // an estimate that was too long
    return reason;
  }

  // Finished runs at or below `below`, by the identity of their stage 1.
  void find_donors(const fs::path& below) {
    if (!fs::is_directory(below)) usage_fail("no such folder", below.string(), "see --reuse");
    std::vector<fs::path> runs{below};
    for (const auto& entry : fs::recursive_directory_iterator(below)) {
      if (entry.is_directory()) runs.push_back(entry.path());
    }
    std::ranges::sort(runs);
    for (const fs::path& run : runs) {
      if (!is_run(run) || !fs::exists(run / "DONE")) continue;
      RunConfig config;
      try {
        read_config(run / "config.txtpb", config);
        complete(config);
      } catch (const Error& e) {
        fmt::print(stderr, "{}: not used: {}\n", run.string(), e.what());
        continue;
      }
      outside_[stage1_identity(config)].push_back(run);
    }
  }

  // Trained runs that share stage 1: of this sweep, then from elsewhere.
  std::vector<fs::path> donors(size_t cell) const {
    std::vector<fs::path> found;
    for (size_t c = 0; c < cells_.size(); ++c) {
      if (c != cell && stage1_[c] == stage1_[cell] && trained(c)) found.push_back(folder(c));
    }
    if (const auto other = outside_.find(stage1_[cell]); other != outside_.end()) {
      found.insert(found.end(), other->second.begin(), other->second.end());
    }
    return found;
  }

  std::shared_ptr<AttackTarget> target(size_t cell) {
    std::lock_guard lock(targets_mutex_);
    if (!targets_[cell]) {
      targets_[cell] = std::make_shared<AttackTarget>(folder(cell), cells_[cell].config);
    }
    return targets_[cell];
  }

  void write_state() const {
    results::SweepState state;
    state.set_title(options_.title);
    state.set_command(command_line());
    for (size_t c = 0; c < cells_.size(); ++c) {
      const SweepCell& cell = cells_[c];
      std::string status = cell.skipped.empty() ? "done" : "skipped", reason = cell.skipped;
      for (const Task& task : tasks_) {
        if (task.cell != c) continue;
        if (task.state == State::kFailed && (status != "failed" || task.attack < 0)) {
          status = "failed";
          reason = task.attack < 0
                       ? task.reason
                       : cell.attacks[static_cast<size_t>(task.attack)] + ": " + task.reason;
        } else if (status == "done" && task.state != State::kDone) {
          status = "unfinished";
        }
      }
      results::SweepState::Cell* out = state.add_cells();
      out->set_folder(cell.folder);
      out->set_row(cell.row);
      out->mutable_values()->insert(cell.values.begin(), cell.values.end());
      out->mutable_attacks()->Assign(cell.attacks.begin(), cell.attacks.end());
      out->set_status(status);
      out->set_reason(reason);
    }
    results::write(options_.out / "sweep.json", state);
  }

  const std::vector<SweepCell>& cells_;
  const SweepOptions& options_;
  Estimator estimator_;
  std::vector<std::string> stage1_;                       // identity of each cell's stage 1
  std::map<std::string, std::vector<fs::path>> outside_;  // the same -> runs below options.reuse
  std::vector<Estimator::Cell> costs_;                    // of each cell
  std::vector<Task> tasks_;  // in the order of the cells, a training before its attacks
  int finished_before_ = 0;

  std::mutex mutex_;  // guards the tasks' states and memory_
  std::condition_variable changed_;
  double memory_ = 0, free_memory_ = 0;  // GB
  Progress* progress_ = nullptr;
  std::mutex targets_mutex_;
  std::vector<std::shared_ptr<AttackTarget>> targets_;
};

std::string hours(double seconds) {
  if (seconds < 90) return fmt::format("{:.0f} s", seconds);
  if (seconds < 5400) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

void Sweep::print_plan() const {
  double total = 0, most_memory = 0;
  int todo = 0;
  for (size_t c = 0; c < cells_.size(); ++c) {
    const SweepCell& cell = cells_[c];
    if (!cell.skipped.empty()) {
      fmt::print("{:<44} skipped: {}\n", cell.folder, cell.skipped);
      continue;
    }
    double training = 0, attacking = 0;
    int attacks = 0;
    bool anything = false, shared = false;
    for (const Task& task : tasks_) {
      if (task.cell != c) continue;
      if (task.state == State::kFailed) fail(task.reason, cell.folder);
      anything = true;
      (task.attack < 0 ? training : attacking) += task.seconds;
      attacks += task.attack >= 0;
      shared |= task.shares_stage1;
    }
    if (!anything) {
      fmt::print("{:<44} done\n", cell.folder);
      continue;
    }
    ++todo;
    total += training + attacking;
    most_memory = std::max(most_memory, costs_[c].gigabytes);
    fmt::print("{:<44} training {:>7}{}, {} attacks {:>7}, {:.1f} GB\n", cell.folder,
               hours(training), shared ? " (stage 1 shared)" : "", attacks, hours(attacking),
               costs_[c].gigabytes);
  }
  const int threads = compute_threads();
  fmt::print(
      "\n{} of {} cells to do: about {} of compute, {} on the {} threads here; up to {:.1f} GB a "
      "cell\n(from training steps measured now; good to a factor of two)\n",
      todo, cells_.size(), hours(total), hours(total / threads), threads, most_memory);
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
                   "give the rows names of their own");
      }
      if (cell.skipped.empty()) cell.skipped = impossible_split(cell.config);
      if (cell.skipped.empty()) {
        std::string what = training_identity(cell.config) + to_text(cell.config.attack());
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
  Sweep(cells, options).print_plan();
}

int run_sweep(const std::vector<SweepCell>& cells, const SweepOptions& options) {
  const int failures = Sweep(cells, options).run();
  const fs::path page = options.out / "report.html";
  write_report({options.out}, page);
  fmt::print("{}\n", page.string());
  return failures;
}

}  // namespace ens
