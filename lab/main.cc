// SPDX-License-Identifier: Apache-2.0
// `ensembler`: train, attack, report, inspect.
#include "base/flags.h"
#include "base/program.h"
#include "base/threads.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "nn/core/backend.h"

namespace {

int run(int argc, char** argv) {
  ens::remember_command_line(argc, argv);
  ens::pin_compute_threads();
  ens::offer_gpus();
  CLI::App app{"Ensembler: private collaborative inference, and a lab that measures attacks on it.",
               "ensembler"};
  app.require_subcommand(1);
  app.set_help_all_flag("--help-all", "Help of every command");
  ens::add_demo_command(app);
  ens::add_train_command(app);
  ens::add_attack_command(app);
  ens::add_sweep_command(app);
  ens::add_task_command(app);
  ens::add_report_command(app);
  ens::add_compare_command(app);
  ens::add_advise_command(app);
  ens::add_info_command(app);
  ens::add_config_command(app);
  ens::add_data_command(app);
  ens::add_keys_command(app);
  ens::add_parts_command(app);
  ens::add_calibrate_command(app);
  ens::add_certify_command(app);
  ens::add_offload_command(app);
  ens::add_disguise_command(app);
  ens::add_import_command(app);
  ens::add_export_command(app);
  ens::parse_flags(app, argc, argv);  // runs the command
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return ens::run_program("ensembler", argv, [&] { return run(argc, argv); });
}
