// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "lab/stop_on_signals.h"
#include "lab/sweep.h"

namespace ens {

void add_task_command(CLI::App& app) {
  struct Flags {
    ConfigFlags config;
    std::string folder, id;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "task", "Run one training or attack of a sweep or run folder; without ID, list them");
  flags->config.add_to(*command);
  command->add_option("folder", flags->folder, "Folder of a sweep or of a run")->required();
  command->add_option("id", flags->id,
                      "CELL/train or CELL/attack/NAME; in a run folder without CELL/");
  command->callback([flags] {
    TaskFolder tasks(flags->folder, flags->config.given());
    if (flags->id.empty()) {
      for (const TaskFolder::Line& line : tasks.list()) {
        fmt::print("{:<7}  {}{}{}\n", line.state, line.id, line.reason.empty() ? "" : ": ",
                   line.reason);
      }
      return;
    }
    const StopOnSignals signals;
    if (!tasks.run(flags->id, signals.token())) {
      fmt::print(stderr, "{}: done already\n", flags->id);
    }
  });
}

}  // namespace ens
