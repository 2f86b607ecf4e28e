// SPDX-License-Identifier: Apache-2.0
#include "lab/scenarios/split_training.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/files.h"
#include "base/notice.h"
#include "base/strings.h"
#include "ensemble/model/edge_bundle.h"
#include "ensemble/train/protection_training.h"
#include "ensemble/train/trainer.h"
#include "experiment/run_dir.h"
#include "experiment/setup.h"
#include "lab/config_flags.h"
#include "lab/datasets.h"
#include "nn/core/backend.h"
#include "nn/models/torchvision.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

// A second name for the same bytes where the file system can; artefacts are replaced whole, never
// written into.
void link_or_copy(const fs::path& from, const fs::path& to) {
  fs::create_directories(to.parent_path());
  std::error_code error;
  fs::remove(to, error);
  fs::create_hard_link(from, to, error);
  if (error) fs::copy_file(from, to, fs::copy_options::overwrite_existing);
}

// The finished result of an equal training in `source_run`, if it is one.
bool reuse_result(const fs::path& source_run, const std::string& identity, RunDir& run) {
  if (!fs::exists(source_run / "DONE") || fs::equivalent(source_run, run.folder())) return false;
  const RunView view = read_run(source_run);
  if (!config_difference(identity, view.config_text).empty()) return false;
  for (const char* file : {"edge.h5", "cloud.h5", "summary.json", "metrics.csv"}) {
    if (fs::exists(source_run / file)) {
      // Rows may still be appended to a log: a copy of its own.
      if (std::string(file) == "metrics.csv") {
        fs::copy_file(source_run / file, run.path(file), fs::copy_options::overwrite_existing);
      } else {
        link_or_copy(source_run / file, run.path(file));
      }
    }
  }
  return true;
}

// A training that was interrupted goes on with the classes it began with.
void keep_classes(const Dataset& train, const RunDir& run) {
  const fs::path file = run.path("classes.txt");
  if (const auto before = read_file_if_there(file)) {
    check_classes(train, split_text(*before, '\n'), file.string());
  } else {
    write_file_atomically(file, join(train.class_names, "\n") + "\n", /*secret=*/false);
  }
}

// Whether a finished run's labels mean the same; says why, if they do not.
bool has_classes(const Dataset& train, const fs::path& source_run) {
  if (!fs::exists(source_run / "DONE")) return false;
  try {
    check_classes(train, read_edge_bundle(source_run / "edge.h5").class_names, source_run.string());
    return true;
  } catch (const Error& e) {
    notice(fmt::format("{}: not used: {}", source_run.string(), e.what()));
    return false;
  }
}

}  // namespace

std::string training_identity(const RunConfig& config) {
  RunConfig identity = config;
  identity.mutable_data()->clear_root();
  identity.clear_attack();
  identity.clear_tensorboard();
  return to_text(identity);
}

bool train_run(const RunConfig& config, const fs::path& folder,
               const std::vector<fs::path>& source_runs, const std::vector<WeightsFile>& imported) {
  const std::string identity = training_identity(config);
  const Device device = parse_devices(config.device())[0];
  const RunFacts facts{command_line(), backend(device).description(), config.seed()};
  if (fs::exists(folder / "DONE")) {
    RunDir(folder, identity, facts);  // refuses a folder of another configuration
    return false;
  }
  const auto train = shared_dataset(config, DataPart::kTrain);
  const auto test = shared_dataset(config, DataPart::kTest);
  const ModelSpec spec = model_spec(config, *train);
  check(spec, split_of(config));  // before anything is written
  make_protection_training(config)->channel(config, smashed_shape(spec, split_of(config)).numel());
  std::vector<std::vector<NamedTensor>> nets;
  for (const WeightsFile& net : imported) {
    nets.push_back(from_torchvision(spec, net.weights, net.file));
  }
  RunDir run(folder, identity, facts);
  keep_classes(*train, run);
  bool reused = false;
  std::vector<fs::path> same_classes;
  for (const fs::path& source_run : source_runs) {
    if (!has_classes(*train, source_run)) continue;
    same_classes.push_back(source_run);
    reused = reuse_result(source_run, identity, run);
    if (reused) break;
  }
  if (config.tensorboard()) run.write_events();
  if (!reused) {
    for (const fs::path& source_run : same_classes) reuse_stage1(config, folder, source_run);
    train_ensemble(config, run, *train, *test, nets);
  }
  run.mark_done();
  return true;
}

}  // namespace ens
