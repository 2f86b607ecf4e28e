// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "base/progress.h"
#include "base/strings.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "lab/scenarios/disguise.h"
#include "lab/scenarios/split_training.h"
#include "lab/scenarios/text.h"
#include "lab/stop_on_signals.h"
#include "proto/results.h"
#include "proto/results.pb.h"

namespace ens {

results::RunSummary print_accuracy(const std::filesystem::path& run) {
  results::RunSummary summary;
  results::read(run / "summary.json", summary);
  if (summary.has_text()) {
    fmt::print(
        "BLEU {:.2f} ({}) on {} test sentences, {:.2f} of lower-case words; validation loss "
        "{:.3f}\n",
        summary.text().bleu(), summary.text().signature(), summary.text().sentences(),
        summary.text().bleu_lower(), summary.text().validation_loss());
    return summary;
  }
  fmt::print("accuracy {:.1f} % on the test images\n", 100 * summary.accuracy());
  if (summary.selected_nets_size() > 0) {
    std::vector<std::string> shares, alone;
    for (const auto& net : summary.selected_nets()) {
      shares.push_back(fmt::format("{:.0f}", 100 * net.share()));
      alone.push_back(fmt::format("{:.1f}", 100 * net.accuracy()));
    }
    fmt::print("the selected nets' shares of the logits: {} %; accuracy of each alone: {} %{}\n",
               join(shares, ", "), join(alone, ", "),
               results::in_effect_one_net(summary) ? "; in effect one net" : "");
  }
  return summary;
}

void add_train_command(CLI::App& app) {
  struct Flags {
    ConfigFlags config;
    std::string out;
    bool print_config = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("train",
                                         "Train an ensemble, an unprotected network, a "
                                         "translation, or on disguised images, into a run "
                                         "folder");
  flags->config.add_to(*command);
  flags->config.add_tensorboard(*command);
  command->add_option("-o,--out", flags->out, "Run folder; an existing one is resumed");
  command->add_flag("--print-config", flags->print_config,
                    "Print the complete configuration and stop");
  command->callback([flags] {
    const RunConfig config = flags->config.resolve();
    if (flags->print_config) {
      fmt::print("{}", to_text(config));
      return;
    }
    if (flags->out.empty()) throw CLI::RequiredError("--out");
    const StopOnSignals signals;
    const ProgressCapture capture(
        [stop = signals.token()](const ProgressStep&) {
          if (stop.stop_requested()) throw Stopped();
        },
        true);
    const bool disguised = is_disguised(config);
    if (!(is_text(config) ? train_text_run(config, flags->out)
          : disguised     ? train_disguised_run(config, flags->out)
                          : train_run(config, flags->out))) {
      fmt::print(stderr, "{}: already trained\n", flags->out);
    }
    const results::RunSummary summary = print_accuracy(flags->out);
    if (config.data().public_images() > 0) {
      fmt::print(stderr,
                 "trained on {} {}, without those that are set aside for the attacks to use "
                 "({}, at most {}; for a model that goes into service: "
                 "--set data.public_images=0)\n",
                 summary.train_images(), is_text(config) ? "sentences" : "images",
                 config.data().public_images(), is_text(config) ? "half" : "a fifth");
    }
    fmt::print(stderr, "{}: {}, summary.json\nnext: {}\n", flags->out,
               disguised ? "owner (secret), cloud/model.h5" : "edge.h5 (secret), cloud.h5",
               command_to_paste({"ensembler", "attack", flags->out}));
  });
}

}  // namespace ens
