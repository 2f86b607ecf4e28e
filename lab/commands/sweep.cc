// SPDX-License-Identifier: Apache-2.0
#include "lab/sweep.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "base/error.h"
#include "base/flags.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "lab/stop_on_signals.h"

namespace ens {

void add_sweep_command(CLI::App& app) {
  struct Flags {
    std::string file;
    std::string data_root;
    std::vector<std::string> overrides;
    bool dry_run = false;
    SweepOptions options;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "sweep", "Train and attack every combination of settings; finished cells are skipped");
  command
      ->add_option(
          "config", flags->file,
          "Sweep: a .txtpb file (SweepConfig), or the name of a bundled one (table1-cifar10-small)")
      ->required();
  command->add_option("-o,--out", flags->options.out, "Folder of the sweep")->required();
  add_set_flag(*command, flags->overrides);
  command->add_option(
      "--data", flags->data_root,
      "Folder with the data sets (default: $ENS_DATA, then ~/.cache/ensembler-data)");
  command
      ->add_option("--reuse", flags->options.reuse,
                   "Folders of other runs or sweeps, whose finished trainings are reused")
      ->allow_extra_args(false);
  command
      ->add_option("-j,--jobs", flags->options.jobs,
                   "Trainings and attacks at a time (default: one per CPU thread; on a GPU 4)")
      ->check(between(1, 4096));
  command
      ->add_option("--memory", flags->options.memory_gb,
                   "Memory limit in GB for all of them together (default: 80 % of what is free)")
      ->check(above(0));
  command->add_flag("--dry-run", flags->dry_run,
                    "Print the cells and the estimated time, and stop");
  command->callback([flags] {
    SweepConfig sweep;
    read_config(find_config(flags->file), sweep);
    apply_overrides(flags->overrides, *sweep.mutable_base());
    if (!flags->data_root.empty()) {
      sweep.mutable_base()->mutable_data()->set_root(flags->data_root);
    }
    if (flags->dry_run) {
      print_plan(expand(sweep, ""), flags->options);
      return;
    }
    const StopOnSignals signals;
    flags->options.stop = signals.token();
    const int failures = run_sweep(sweep, flags->options);
    fmt::print("{}\n", (flags->options.out / "report.html").string());
    if (failures > 0) {
      fail(fmt::format("{} trainings or attacks failed", failures), "sweep",
           "the reasons are in the report; the same command tries them again");
    }
  });
}

}  // namespace ens
