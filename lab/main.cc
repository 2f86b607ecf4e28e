// `ensembler`: train, attack, report, inspect.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/error.h"
#include "base/threads.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "nn/core/backend.h"

int main(int argc, char** argv) {
  ens::reexec_with_bounded_omp_spin(argv);
  ens::remember_command_line(argc, argv);
  ens::pin_compute_threads();
  ens::offer_gpus();
  CLI::App app{"Ensembler: private collaborative inference, and a lab that measures attacks on it.",
               "ensembler"};
  app.require_subcommand(1);
  app.set_version_flag("--version", ENS_VERSION);
  app.set_help_all_flag("--help-all", "Help of every command");
  ens::add_demo_command(app);
  ens::add_train_command(app);
  ens::add_attack_command(app);
  ens::add_sweep_command(app);
  ens::add_task_command(app);
  ens::add_report_command(app);
  ens::add_advise_command(app);
  ens::add_info_command(app);
  ens::add_config_command(app);
  ens::add_data_command(app);
  ens::add_keys_command(app);
  ens::add_parts_command(app);
  ens::add_calibrate_command(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    std::fprintf(stderr, "ensembler: %s; try `ensembler --help`\n", e.what());
    return 2;
  } catch (const ens::Error& e) {
    std::fprintf(stderr, "ensembler: %s\n", e.what());
    return e.exit_code();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "ensembler: %s\n", e.what());
    return 1;
  }
  return 0;
}
