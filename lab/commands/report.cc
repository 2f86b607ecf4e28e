// SPDX-License-Identifier: Apache-2.0
#include "report/report.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>

#include "base/error.h"
#include "lab/commands/commands.h"

namespace ens {

void add_report_command(CLI::App& app) {
  struct Flags {
    std::vector<std::string> folders;
    std::string out = "report.html", figures;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "report", "Write an HTML page (with Markdown, LaTeX, CSV and JSON) from run folders");
  command->add_option("folders", flags->folders, "Run folders, or folders that contain some")
      ->required();
  command->add_option("-o,--out", flags->out, "The page to write")->capture_default_str();
  command->add_option("--figures", flags->figures,
                      "Folder for the page's figures, an SVG file each");
  command->callback([flags] {
    const std::string ending = std::filesystem::path(flags->out).extension();
    if (ending == ".json" || ending == ".csv" || ending == ".md" || ending == ".tex") {
      usage_fail(
          "the page cannot be a " + ending + " file", flags->out,
          "name it .html; Markdown, LaTeX, CSV and JSON are written beside it under the same "
          "name");
    }
    write_report({flags->folders.begin(), flags->folders.end()}, flags->out, flags->figures);
    fmt::print("{}\n", flags->out);
  });
}

}  // namespace ens
