// SPDX-License-Identifier: Apache-2.0
// The subcommands of `ensembler`. Each registers itself, its flags and what it does; all logic
// lives in the libraries.
#pragma once

#include <filesystem>

namespace CLI {
class App;
}

namespace ens::results {
class RunSummary;
}

namespace ens {

void add_train_command(CLI::App& app);
void add_attack_command(CLI::App& app);
void add_sweep_command(CLI::App& app);
void add_task_command(CLI::App& app);
void add_report_command(CLI::App& app);
void add_compare_command(CLI::App& app);
void add_advise_command(CLI::App& app);
void add_info_command(CLI::App& app);
void add_config_command(CLI::App& app);
void add_demo_command(CLI::App& app);
void add_data_command(CLI::App& app);
void add_keys_command(CLI::App& app);
void add_parts_command(CLI::App& app);
void add_calibrate_command(CLI::App& app);
void add_certify_command(CLI::App& app);
void add_offload_command(CLI::App& app);
void add_offload_bench_command(CLI::App& offload);  // these below `offload`
void add_offload_noise_command(CLI::App& offload);
void add_disguise_command(CLI::App& app);
void add_disguise_classify_command(CLI::App& disguise);
void add_disguise_owner_commands(CLI::App& disguise);  // below `disguise`
void add_disguise_train_command(CLI::App& disguise);   // below `disguise`
void add_import_command(CLI::App& app);
void add_export_command(CLI::App& app);
void add_studio_command(CLI::App& app);

// Prints what a finished training reached; returns its summary.
results::RunSummary print_accuracy(const std::filesystem::path& run);

}  // namespace ens
