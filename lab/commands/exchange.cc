// SPDX-License-Identifier: Apache-2.0
#include "lab/exchange.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/strings.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "lab/scenarios/split_training.h"
#include "lab/stop_on_signals.h"
#include "proto/results.pb.h"

namespace ens {

void add_import_command(CLI::App& app) {
  struct Flags {
    ConfigFlags config;
    std::vector<std::string> files;
    std::string out;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "import",
      "Make a run of networks trained elsewhere, from safetensors files (docs/import.md)");
  command
      ->add_option("weights", flags->files,
                   "A file for each network, with torchvision's names of ResNet-18, ResNet-34 or "
                   "VGG-16 with batch norm")
      ->required();
  command->add_option("-o,--out", flags->out, "Run folder")->required();
  flags->config.add_to(*command);
  flags->config.add_tensorboard(*command);
  command->callback([flags] {
    std::vector<WeightsFile> files;
    for (const std::string& file : flags->files) files.push_back(read_weights(file));
    const RunConfig config = import_config(flags->config.given(), files);
    const StopOnSignals signals;
    const ProgressCapture capture(
        [stop = signals.token()](const ProgressStep&) {
          if (stop.stop_requested()) throw Stopped();
        },
        true);
    if (!train_run(config, flags->out, {}, files)) {
      fmt::print(stderr, "{}: already imported\n", flags->out);
    }
    print_accuracy(flags->out);
    fmt::print(stderr,
               "lower than where it was trained? What no weights file says: --set model.mean and "
               "model.stddev, model.stem_pool, and the order of the classes ({}/classes.txt)\n"
               "next: {}\n",
               flags->out, command_to_paste({"ensembler", "attack", flags->out}));
  });
}

void add_export_command(CLI::App& app) {
  struct Flags {
    std::string run, out, format = "onnx";
    bool secrets = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "export", "Write a run's networks for other programs, as ONNX or safetensors");
  command->add_option("run", flags->run, "Run folder")->required();
  command->add_option("-o,--out", flags->out, "Folder for body0.onnx, ...")->required();
  command->add_option("--format", flags->format, "onnx or safetensors")
      ->check(CLI::IsMember({"onnx", "safetensors"}))
      ->capture_default_str();
  command->add_flag(
      "--secrets", flags->secrets,
      "Write the edge's half too: head, tail, noise, and which networks are selected");
  command->callback([flags] {
    const Exported done =
        export_run(flags->run, flags->out,
                   flags->format == "onnx" ? ExchangeFormat::kOnnx : ExchangeFormat::kSafetensors,
                   flags->secrets);
    for (const auto& file : done.files) fmt::print("{}\n", file.string());
    if (!done.left_out.empty()) {
      fmt::print(stderr, "what the edge does behind the head is in no ONNX file: {}\n",
                 join(done.left_out));
    }
    if (!flags->secrets) {
      fmt::print(stderr, "without the edge's half, which is secret: --secrets writes it\n");
    }
  });
}

}  // namespace ens
