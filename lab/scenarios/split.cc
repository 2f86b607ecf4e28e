// SPDX-License-Identifier: Apache-2.0
#include "lab/scenarios/split.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>

#include "attacks/split/registry.h"
#include "base/error.h"
#include "base/notice.h"
#include "base/progress.h"
#include "ensemble/train/trainer.h"
#include "experiment/run_dir.h"
#include "experiment/setup.h"
#include "lab/estimate.h"
#include "lab/scenarios/shared_target.h"
#include "lab/scenarios/split_attacks.h"
#include "lab/scenarios/split_training.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

bool trained(const ScenarioRun& run) { return fs::exists(run.folder / "DONE"); }

// The runs of one graph that may reuse nets of stage 1, of each other and of runs elsewhere.
class Sharing {
 public:
  Sharing(const std::vector<ScenarioRun>& runs, const std::vector<fs::path>& reuse) : runs_(runs) {
    for (const ScenarioRun& run : runs) stage1_.push_back(stage1_identity(run.config));
    for (const fs::path& below : reuse) find_source_runs(below);
  }

  // Nobody needs to train this run's stage 1: it is there, or an earlier run will.
  bool shared(size_t run) const {
    return outside_.contains(stage1_[run]) ||
           std::find(stage1_.begin(), stage1_.begin() + static_cast<std::ptrdiff_t>(run),
                     stage1_[run]) != stage1_.begin() + static_cast<std::ptrdiff_t>(run);
  }

  // `other` trains the same stage 1, and before `run`: it has more nets of it, or is earlier.
  bool comes_first(size_t other, size_t run) const {
    const auto nets = [&](size_t i) { return runs_[i].config.ensemble().nets(); };
    return other != run && stage1_[other] == stage1_[run] &&
           (nets(other) > nets(run) || (nets(other) == nets(run) && other < run));
  }

  // Trained runs that have the same stage 1: of this graph, then from elsewhere.
  std::vector<fs::path> source_runs(size_t run) const {
    std::vector<fs::path> found;
    for (size_t i = 0; i < runs_.size(); ++i) {
      if (i != run && stage1_[i] == stage1_[run] && trained(runs_[i])) {
        found.push_back(runs_[i].folder);
      }
    }
    if (const auto other = outside_.find(stage1_[run]); other != outside_.end()) {
      found.insert(found.end(), other->second.begin(), other->second.end());
    }
    return found;
  }

  const ScenarioRun& run(size_t index) const { return runs_[index]; }

 private:
  void find_source_runs(const fs::path& below) {
    if (!fs::is_directory(below)) usage_fail("no such folder", below.string(), "see --reuse");
    std::vector<fs::path> found{below};
    for (const auto& entry : fs::recursive_directory_iterator(below)) {
      if (entry.is_directory()) found.push_back(entry.path());
    }
    std::ranges::sort(found);
    for (const fs::path& run : found) {
      if (!is_run(run) || !fs::exists(run / "DONE")) continue;
      RunConfig config;
      try {
        config = read_run_config(run);
      } catch (const Error& e) {
        notice(fmt::format("{}: not used: {}", run.string(), e.what()));
        continue;
      }
      outside_[stage1_identity(config)].push_back(run);
    }
  }

  const std::vector<ScenarioRun> runs_;
  std::vector<std::string> stage1_;                       // identity of each run's stage 1
  std::map<std::string, std::vector<fs::path>> outside_;  // the same -> finished runs elsewhere
};

class SplitScenario : public Scenario {
 public:
  // Without the data set: its channels and classes do not decide whether a split is possible.
  std::string impossible(const RunConfig& config) const override {
    ModelSpec spec = model_spec(config.model());
    if (config.data().image_size() > 0) spec.image_size = config.data().image_size();
    try {
      check(spec, split_of(config));
      return "";
    } catch (const Error& e) {
      return e.what();
    }
  }

  std::string identity(const RunConfig& config) const override { return training_identity(config); }

  std::vector<std::string> attacks(const std::vector<std::string>& named,
                                   const std::string& tier) const override {
    for (const std::string& attack : named) make_attack(attack);  // usage Error if unknown
    return named.empty() ? default_attacks(tier) : named;
  }

  std::vector<Task> tasks(const std::vector<ScenarioRun>& runs,
                          const TaskOptions& options) const override {
    Estimator estimator;
    const auto sharing = std::make_shared<const Sharing>(runs, options.reuse);
    std::vector<Task> tasks;
    std::map<size_t, size_t> trainings;  // of what is to be trained: run -> index in tasks
    for (size_t r = 0; r < runs.size(); ++r) {
      const ScenarioRun& run = runs[r];
      const std::string prefix = task_prefix(run.name);
      std::set<std::string> missing;
      for (const std::string& attack : run.attacks) {
        if (!attack_done(run.folder, attack, run.config, false)) missing.insert(attack);
      }
      Task training;
      training.id = prefix + "train";
      training.done = trained(run);
      Estimator::Cell cost;
      if ((!training.done || !missing.empty()) && (!options.estimate || options.estimate(run))) {
        try {
          cost = estimator.estimate(run.config, {missing.begin(), missing.end()});
        } catch (const std::exception& e) {  // no data, an impossible network
          training.done = false;
          training.failed = e.what();
          tasks.push_back(training);
          continue;
        }
      }
      training.device = parse_devices(run.config.device())[0];
      training.gigabytes = cost.gigabytes;
      const bool shared = !training.done && sharing->shared(r);
      if (shared) training.note = "stage 1 shared";
      training.cost = (shared ? 0 : cost.stage1_seconds) + cost.stage2_seconds;
      training.run = [sharing, r, cost](TaskContext& context) {
        const ProgressCapture capture([&](const ProgressStep& step) {
          const bool second = step.label.starts_with("stage 2");
          context.report(static_cast<double>(step.units) *
                             (second ? cost.stage2_per_image : cost.stage1_per_image),
                         step.note);
        });
        const ScenarioRun& own = sharing->run(r);
        train_run(own.config, own.folder, sharing->source_runs(r));
      };
      if (!training.done) trainings[r] = tasks.size();
      tasks.push_back(training);

      const auto target = std::make_shared<SharedTarget<AttackTarget>>(run, missing.size());
      std::set<std::string> listed;
      for (const std::string& attack : run.attacks) {
        if (!listed.insert(attack).second) continue;  // named twice
        Task task;
        task.id = prefix + "attack/" + attack;
        task.needs = {training.id};
        task.done = !missing.contains(attack);
        task.device = training.device;
        task.gigabytes = training.gigabytes;
        task.cost = cost.attacks[attack].seconds;
        task.run = [target, attack,
                    each = cost.attacks[attack].seconds_per_image](TaskContext& context) {
          target->use([&](AttackTarget& opened) { opened.run(attack, {}, each, context); });
        };
        tasks.push_back(task);
      }
    }
    for (const auto& [run, index] : trainings) {
      for (const auto& [other, before] : trainings) {
        if (sharing->comes_first(other, run)) tasks[index].after.push_back(tasks[before].id);
      }
    }
    return tasks;
  }
};

}  // namespace

const Scenario& split_scenario() {
  static const SplitScenario scenario;
  return scenario;
}

}  // namespace ens
