// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "ensemble/model/bundle.h"
#include "lab/commands/commands.h"

namespace ens {

void add_parts_command(CLI::App& app) {
  struct Flags {
    std::string bundle, out = ".";
    int servers = 2;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* parts = app.add_subcommand(
      "parts", "Split the server networks over several clouds: one bundle each, no network in two");
  parts->add_option("bundle", flags->bundle, "cloud.h5 of a run")->required();
  parts->add_option("--servers", flags->servers, "Number of clouds")->capture_default_str();
  parts->add_option("--out", flags->out, "Folder for part1.h5, part2.h5, ...")
      ->capture_default_str();
  parts->callback([flags] {
    namespace fs = std::filesystem;
    const CloudBundle bundle = read_cloud_bundle(flags->bundle);
    const int nets = static_cast<int>(bundle.part.size());
    if (flags->servers < 1 || flags->servers > nets) {
      usage_fail(fmt::format("{} networks on {} servers", nets, flags->servers), flags->bundle,
                 fmt::format("use --servers 1 to {}", nets));
    }
    fs::create_directories(flags->out);
    for (int server = 0; server < flags->servers; ++server) {
      std::vector<int> part;  // in turn, so that sizes differ by one at most
      for (int i = server; i < nets; i += flags->servers) {
        part.push_back(bundle.part[static_cast<size_t>(i)]);
      }
      const fs::path file = fs::path(flags->out) / fmt::format("part{}.h5", server + 1);
      write_part(file, bundle, part);
      fmt::print("{}  networks {} of {}\n", file.string(), fmt::join(part, ","), bundle.info.nets);
    }
  });
}

}  // namespace ens
