// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "base/error.h"
#include "experiment/run_dir.h"
#include "lab/certificate.h"
#include "lab/commands/commands.h"
#include "proto/results.h"
#include "report/certificate.h"

namespace ens {

void add_certify_command(CLI::App& app) {
  struct Flags {
    std::string run, data;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "certify", "What a request of a run with a channel can tell at most, whoever attacks");
  command->add_option("run", flags->run, "Run folder")->required();
  command->add_option("--data", flags->data,
                      "Folder of the data sets; default $ENS_DATA, then the cache");
  command->callback([flags] {
    RunConfig config = read_run_config(flags->run);
    if (!flags->data.empty()) config.mutable_data()->set_root(flags->data);
    const results::Certificate certificate = certify(flags->run, config);
    results::write(std::filesystem::path(flags->run) / "certificate.json", certificate);
    fmt::print("{}", certificate_text(certificate));
    if (!certificate.sound()) fail("the certificate fails", flags->run, "train the run again");
  });
}

}  // namespace ens
