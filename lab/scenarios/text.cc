// SPDX-License-Identifier: Apache-2.0
#include "lab/scenarios/text.h"

#include "base/error.h"
#include "base/progress.h"
#include "experiment/run_dir.h"
#include "lab/config_flags.h"
#include "lab/scenarios/split_training.h"
#include "nn/core/backend.h"
#include "text/train/data.h"
#include "text/train/train.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

class TextScenario : public Scenario {
 public:
  std::string impossible(const RunConfig& config) const override { return text_impossible(config); }

  std::string identity(const RunConfig& config) const override { return training_identity(config); }

  std::vector<std::string> attacks(const std::vector<std::string>& named,
                                   const std::string&) const override {
    if (!named.empty()) usage_fail("there is no attack '" + named[0] + "' on translation");
    return {};
  }

  std::vector<Task> tasks(const std::vector<ScenarioRun>& runs, const TaskOptions&) const override {
    std::vector<Task> tasks;
    for (const ScenarioRun& run : runs) {
      Task training;
      training.id = task_prefix(run.name) + "train";
      training.done = fs::exists(run.folder / "DONE");
      training.device = parse_devices(run.config.device())[0];
      training.gigabytes = kGigabytes;
      training.cost = kNetSeconds * run.config.ensemble().nets() * run.config.stage1().epochs();
      training.run = [run](TaskContext& context) {
        const ProgressCapture capture(
            [&](const ProgressStep& step) { context.report(0, step.note); });
        train_text_run(run.config, run.folder);
      };
      tasks.push_back(training);
    }
    return tasks;
  }

 private:
  // For the plan of a sweep: an epoch of one net on one thread.
  static constexpr double kNetSeconds = 60, kGigabytes = 1;
};

}  // namespace

bool is_text(const RunConfig& config) {
  return config.text().has_direction() &&
         '"' + config.text().direction() + '"' != default_text("text.direction");
}

const Scenario& text_scenario() {
  static const TextScenario scenario;
  return scenario;
}

bool train_text_run(const RunConfig& config, const fs::path& folder) {
  if (const std::string reason = text_impossible(config); !reason.empty()) usage_fail(reason);
  const RunFacts facts{command_line(), backend(parse_devices(config.device())[0]).description(),
                       config.seed()};
  const bool done = fs::exists(folder / "DONE");
  if (done) {
    RunDir(folder, training_identity(config), facts);  // refuses a folder of another configuration
    return false;
  }
  const TextData data = load_text(config);
  RunDir run(folder, training_identity(config), facts);
  if (config.tensorboard()) run.write_events();
  train_text(config, run, data);
  run.mark_done();
  return true;
}

}  // namespace ens
