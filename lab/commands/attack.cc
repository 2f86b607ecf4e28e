// SPDX-License-Identifier: Apache-2.0
#include "attacks/core/attack.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "attacks/disguise/registry.h"
#include "attacks/split/registry.h"
#include "attacks/text/registry.h"
#include "base/error.h"
#include "experiment/run_dir.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "lab/results.h"
#include "lab/scenarios/disguise.h"
#include "lab/scenarios/split_attacks.h"
#include "lab/scenarios/text.h"
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
      ->add_option(
          "-a,--attack", flags->attacks,
          fmt::format(
              "One of {}; of disguised training one of {}; of translation one of {} (may be "
              "repeated; default: those of attack.tier)",
              fmt::join(attack_names(), ", "), fmt::join(disguise_attack_names(), ", "),
              fmt::join(text_attack_names(), ", ")))
      ->allow_extra_args(false);
  command->add_flag("--rerun,--again", flags->again, "Repeat attacks that have results already");
  command->callback([flags] {
    refuse_ineffective(flags->config.overrides);
    RunConfig wanted = flags->config.given();
    complete(wanted);
    std::vector<AttackJob> jobs;
    std::vector<std::filesystem::path> folders, disguised, text;
    for (const std::string& run : flags->runs) {
      if (!std::filesystem::exists(std::filesystem::path(run) / "DONE")) {
        usage_fail("'" + run + "' is not a finished run folder", "attack",
                   "train it first: ensembler train --out " + run);
      }
      const RunConfig trained = read_run_config(run);
      if (is_text(trained)) {
        text.emplace_back(run);
        continue;
      }
      folders.emplace_back(run);
      if (is_disguised(trained)) {
        disguised.emplace_back(run);
        continue;
      }
      for (const std::string& a :
           scenario_of(trained).attacks(flags->attacks, wanted.attack().tier())) {
        jobs.push_back({run, a, {}});
      }
    }
    const StopOnSignals signals;
    int failures = attack_disguised_runs(disguised, flags->attacks, flags->config.given(),
                                         flags->again, signals.token());
    failures += attack_text_runs(text, flags->attacks, flags->config.given(), flags->again,
                                 signals.token());
    failures += run_attacks(jobs, flags->config.given(), flags->again, signals.token());
    if (!folders.empty()) print_results(folders);
    if (failures > 0)
      fail(fmt::format("{} attack{} failed", failures, failures == 1 ? "" : "s"), "attack",
           "the reasons are in the table above");
  });
}

}  // namespace ens
