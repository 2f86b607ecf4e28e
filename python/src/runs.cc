// SPDX-License-Identifier: Apache-2.0
// Trainings, attacks on runs, sweeps, reports: the lab's verbs on folders.
#include <pybind11/stl.h>

#include <filesystem>
#include <string>
#include <vector>

#include "attacks/split/registry.h"
#include "base/error.h"
#include "experiment/run_dir.h"
#include "lab/config_flags.h"
#include "lab/exchange.h"
#include "lab/results.h"
#include "lab/scenarios/split_attacks.h"
#include "lab/scenarios/split_training.h"
#include "lab/sweep.h"
#include "nn/core/backend.h"
#include "proto/results.h"
#include "python/src/call.h"
#include "python/src/rooms.h"
#include "report/data.h"
#include "report/report.h"

namespace ens::python {
namespace {

namespace fs = std::filesystem;

template <typename Message>
std::string as_json(const std::string& file) {
  Message message;
  results::read(file, message);
  return results::to_json(message);
}

}  // namespace

void register_runs(py::module_& m) {
  offer_gpus();
  char name[] = "python3";
  char* argv[] = {name};
  remember_command_line(1, argv);
  m.def("import_config", [](const RunConfig& given, const std::vector<WeightsFile>& nets) {
    return import_config(given, nets);
  });
  m.def("train", [](const RunConfig& config, const std::string& folder,
                    const std::vector<std::string>& reuse, const std::vector<WeightsFile>& nets,
                    const py::object& progress) {
    const std::vector<fs::path> sources(reuse.begin(), reuse.end());
    return run_for(progress,
                   [=](std::stop_token) { return train_run(config, folder, sources, nets); });
  });
  m.def("attack", [](const std::vector<std::string>& runs, const std::vector<std::string>& attacks,
                     const RunConfig& wanted, bool again, const py::object& progress) {
    std::vector<AttackJob> jobs;
    for (const std::string& run : runs) {
      for (const std::string& attack : attacks) jobs.push_back({run, attack, {}});
    }
    return run_for(progress,
                   [=](std::stop_token stop) { return run_attacks(jobs, wanted, again, stop); });
  });
  m.def("attack_names", attack_names);
  m.def("default_attacks", default_attacks);
  m.def("run_config", [](const std::string& folder) { return read_run_config(folder); });
  m.def("is_run", [](const std::string& folder) { return is_run(folder); });
  m.def("summary_json", as_json<results::RunSummary>);
  m.def("result_json", as_json<results::AttackResult>);
  m.def("sweep_json", as_json<results::SweepState>);
  m.def("result_files", [](const std::string& run) {
    std::vector<std::string> files;
    for (const fs::path& file : result_files(run)) files.push_back(file.string());
    return files;
  });
  m.def("report", [](const std::vector<std::string>& folders, const std::string& html,
                     const std::string& figures) {
    run(py::none(), [=](std::stop_token) {
      write_report({folders.begin(), folders.end()}, html, figures);
    });
  });
  m.def("report_csv", [](const std::vector<std::string>& folders) {
    return run_for(py::none(), [=](std::stop_token) {
      return report::as_csv(report::collect({folders.begin(), folders.end()}));
    });
  });
  m.def("export_run",
        [](const std::string& run, const std::string& folder, bool onnx, bool secrets) {
          return run_for(py::none(), [=](std::stop_token) {
            const Exported done = export_run(
                run, folder, onnx ? ExchangeFormat::kOnnx : ExchangeFormat::kSafetensors, secrets);
            return std::pair(std::vector<std::string>(done.files.begin(), done.files.end()),
                             done.left_out);
          });
        });
  m.def("sweep", [](const std::string& text, const std::string& source, const std::string& folder,
                    const std::vector<std::string>& settings, const std::vector<std::string>& reuse,
                    int jobs, const py::object& progress) {
    SweepConfig config;
    parse_config(text, source, config);
    apply_overrides(settings, *config.mutable_base());
    SweepOptions options;
    options.out = folder;
    options.reuse.assign(reuse.begin(), reuse.end());
    options.jobs = jobs;
    return run_for(progress, [config, options](std::stop_token stop) {
      SweepOptions stoppable = options;
      stoppable.stop = stop;
      return run_sweep(config, stoppable);
    });
  });
}

}  // namespace ens::python
