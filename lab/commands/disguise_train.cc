// SPDX-License-Identifier: Apache-2.0
// ensembler disguise train: the cloud's half, from a disguised set alone.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>

#include "base/progress.h"
#include "disguise/set/set.h"
#include "disguise/train/train.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "lab/stop_on_signals.h"
#include "nn/core/backend.h"
#include "proto/results.h"
#include "proto/results.pb.h"

namespace ens {

void add_disguise_train_command(CLI::App& disguise) {
  struct Flags {
    ConfigFlags config;
    std::string set, test, out;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      disguise.add_subcommand("train", "Train a classifier on a disguised set, without the key");
  flags->config.add_to(*command);
  flags->config.add_tensorboard(*command);
  command->add_option("SET", flags->set, "The disguised training set")->required();
  command->add_option("--test", flags->test, "A disguised test set, to measure the accuracy on");
  command->add_option("-o,--out", flags->out, "Run folder; an existing one is resumed")->required();
  command->callback([flags] {
    const RunConfig config = flags->config.resolve();
    const DisguisedSetReader train(flags->set);
    std::optional<DisguisedSetReader> test;
    if (!flags->test.empty()) test.emplace(flags->test);
    const Device device = parse_devices(config.device())[0];
    const RunFacts facts{command_line(), backend(device).description(), config.seed()};
    const StopOnSignals signals;
    const ProgressCapture capture(
        [stop = signals.token()](const ProgressStep&) {
          if (stop.stop_requested()) throw Stopped();
        },
        true);
    if (!train_disguised(config, flags->out, facts, train, test ? &*test : nullptr)) {
      fmt::print(stderr, "{}: already trained\n", flags->out);
    }
    results::RunSummary summary;
    results::read(std::filesystem::path(flags->out) / "summary.json", summary);
    if (summary.has_accuracy()) {
      fmt::print("accuracy {:.1f} % on the disguised test images\n", 100 * summary.accuracy());
    }
    const std::string model = (std::filesystem::path(flags->out) / "model.h5").string();
    fmt::print(stderr, "{}: model.h5, summary.json\nto serve it: {}\n", flags->out,
               command_to_paste({"ensembler-cloud", "--bundle", model}));
  });
}

}  // namespace ens
