// SPDX-License-Identifier: Apache-2.0
// ensembler disguise: training in a cloud on images that it should not see (docs/disguise.md).
#include <CLI/CLI.hpp>

#include "lab/commands/commands.h"

namespace ens {

void add_disguise_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("disguise", "Train in a cloud on images that are transformed first");
  command->require_subcommand(1);
  add_disguise_owner_commands(*command);
  add_disguise_train_command(*command);
  add_disguise_classify_command(*command);
  add_attack_command(*command);  // of RUN, as `ensembler attack`
}

}  // namespace ens
