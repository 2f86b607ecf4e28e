// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "lab/commands/commands.h"
#include "lab/fetch.h"
#include "nn/data/dataset.h"
#include "nn/data/fetch.h"

namespace ens {
namespace {

struct DataFlags {
  std::string root;
  std::vector<std::string> names;
};

void get(const DataFlags& flags) {
  const std::vector<std::string> known = fetchable_datasets();
  for (const std::string& name : flags.names) {  // all of them before the first download
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      usage_fail("cannot download '" + name + "'", "data get",
                 fmt::format("known are {}; `shapes` needs no file", fmt::join(known, ", ")));
    }
  }
  const std::filesystem::path root = data_root(flags.root);
  for (const std::string& name : flags.names) {
    fetch_with_bars(name, root);
    fmt::print("{}: {}\n", name, (root / name).string());
  }
}

void list(const DataFlags& flags) {
  std::vector<std::string> names = fetchable_datasets();
  names.push_back("shapes");
  fmt::print("{}\n", data_root(flags.root).string());
  for (const std::string& name : names) {
    fmt::print("  {:<14} {}\n", name,
               name == "shapes"                    ? "generated, needs no file"
               : fetched_present(name, flags.root) ? "present"
                                                   : "missing: ensembler data get " + name);
  }
}

}  // namespace

void add_data_command(CLI::App& app) {
  auto flags = std::make_shared<DataFlags>();
  CLI::App* data = app.add_subcommand("data", "Download data sets, or list those present");
  data->require_subcommand(1);
  const auto add_root = [&](CLI::App* command) {
    command->add_option(
        "--data", flags->root,
        "Folder with the data sets (default: $ENS_DATA, then ~/.cache/ensembler-data)");
  };

  CLI::App* fetch = data->add_subcommand("get", "Download from the official addresses and verify");
  fetch
      ->add_option("names", flags->names,
                   fmt::format("Which: {}", fmt::join(fetchable_datasets(), ", ")))
      ->required();
  add_root(fetch);
  fetch->callback([flags] { get(*flags); });

  CLI::App* show =
      data->add_subcommand("list", "List the known data sets and whether they are present");
  add_root(show);
  show->callback([flags] { list(*flags); });
}

}  // namespace ens
