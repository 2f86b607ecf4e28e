// What the commands share: reading a configuration, and running a training or attacks in a run
// folder.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "nn/core/tensor.h"
#include "proto/config.h"

namespace ens {

// --config, --set, --data: the flags of every command that takes a configuration.
struct ConfigFlags {
  std::string file;
  std::vector<std::string> overrides;
  std::string data_root;

  void add_to(CLI::App& command);
  // Defaults < file < --set; completed and checked. Does not touch the disk otherwise.
  RunConfig resolve() const;
};

// A configuration by path, or by the name of one that comes with the program ("demo" or
// "demo.txtpb"): looked for in ./configs and beside the installed program.
std::filesystem::path find_config(const std::string& name);
// The folder of the running program, to find its siblings ensembler-cloud and ensembler-edge.
std::filesystem::path program_folder();
// The command line, for info.json.
void remember_command_line(int argc, char** argv);
const std::string& command_line();

// Trains (or resumes, or finds done) the run in `folder`. The data folder is not part of what
// makes two configurations differ.
void train_run(const RunConfig& config, const std::filesystem::path& folder);

// One attack on one finished run; its result goes to folder/attack/<name>/.
struct AttackJob {
  std::filesystem::path folder;
  std::string attack;
  // Smashed features as they were seen on the wire, of the first test images in order; undefined:
  // computed here as the edge computes them.
  Tensor observed;
};
// Runs the jobs side by side with one progress line. A job that fails leaves its reason in its
// result and does not stop the others; returns how many failed. Jobs whose result is there already,
// for the same settings, are skipped unless `again`.
int run_attacks(const std::vector<AttackJob>& jobs, const AttackConfig& settings,
                const std::string& data_root, bool again);

// A plain table of the runs' accuracies and attack results on stdout.
void print_results(const std::vector<std::filesystem::path>& folders);

}  // namespace ens
