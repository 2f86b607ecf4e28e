// SPDX-License-Identifier: Apache-2.0
#include "attacks/core/attack.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "attacks/split/registry.h"
#include "base/error.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "lab/results.h"
#include "lab/scenarios/split_attacks.h"
#include "lab/stop_on_signals.h"

namespace ens {
namespace {

// A run is attacked as it was trained; a configuration file may say how, --set may not.
void refuse_ineffective(const std::vector<std::string>& overrides) {
  for (const std::string& set : overrides) {
    const std::string path = current_path(set.substr(0, set.find('=')));
    if (path.starts_with("attack.") || path == "device" || path == "dtype" || path == "tf32" ||
        path == "data.root" || path == "tensorboard")
      continue;
    usage_fail("'" + path + "' has no effect on an attack: a run is attacked as it was trained",
               "--set",
               path == "seed" ? "set attack.seed, or train a run with another seed"
                              : "train a run with it: ensembler train --set " + set);
  }
}

}  // namespace

void add_attack_command(CLI::App& app) {
  struct Flags {
    ConfigFlags config;
    std::vector<std::string> runs, attacks;
    bool again = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "attack",
      "Attack finished runs: what could the cloud reconstruct? Results are kept in the run folder");
  flags->config.add_to(*command);
  flags->config.add_tensorboard(*command);
  command->add_option("runs", flags->runs, "Run folders")->required();
  command
      ->add_option("-a,--attack", flags->attacks,
                   fmt::format("One of {} (may be repeated; default: those of attack.tier)",
                               fmt::join(attack_names(), ", ")))
      ->allow_extra_args(false);
  command->add_flag("--rerun,--again", flags->again, "Repeat attacks that have results already");
  command->callback([flags] {
    refuse_ineffective(flags->config.overrides);
    RunConfig wanted = flags->config.given();
    complete(wanted);
    const std::vector<std::string> attacks =
        flags->attacks.empty() ? default_attacks(wanted.attack().tier()) : flags->attacks;
    std::vector<AttackJob> jobs;
    std::vector<std::filesystem::path> folders;
    for (const std::string& run : flags->runs) {
      if (!std::filesystem::exists(std::filesystem::path(run) / "DONE")) {
        usage_fail("'" + run + "' is not a finished run folder", "attack",
                   "train it first: ensembler train --out " + run);
      }
      folders.emplace_back(run);
      for (const std::string& a : attacks) jobs.push_back({run, a, {}});
    }
    const StopOnSignals signals;
    const int failures = run_attacks(jobs, flags->config.given(), flags->again, signals.token());
    print_results(folders);
    if (failures > 0)
      fail(fmt::format("{} of {} attacks failed", failures, jobs.size()), "attack",
           "the reasons are in the table above");
  });
}

}  // namespace ens
