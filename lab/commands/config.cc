// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "lab/commands/commands.h"
#include "proto/config_manual.h"

namespace ens {

void add_config_command(CLI::App& app) {
  app.add_subcommand("config", "Print all settings with defaults and ranges, as Markdown")
      ->callback([] { fmt::print("{}", config_manual()); });
}

}  // namespace ens
