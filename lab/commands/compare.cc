// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "lab/commands/commands.h"
#include "lab/scores.h"
#include "proto/results.h"
#include "proto/results.pb.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

void print(const fs::path& a, const fs::path& b, const std::vector<AttackComparison>& rows) {
  for (const auto& [letter, folder] : {std::pair('A', a), {'B', b}}) {
    results::RunSummary summary;
    results::read(folder / "summary.json", summary);
    fmt::print("{}: {} ({}, accuracy {:.1f} %)\n", letter, folder.string(), summary.protection(),
               100 * summary.accuracy());
  }
  fmt::print("\n{:<20} {:>6} {:>8} {:>8}  {:>26} {:>8}\n", "attack", "images", "SSIM A", "SSIM B",
             "B - A [95 %]", "p");
  for (const AttackComparison& row : rows) {
    if (!row.missing.empty()) {
      fmt::print("{:<20} {}\n", row.attack, row.missing);
      continue;
    }
    const PairedTest& test = row.ssim_test;
    const std::string difference = fmt::format("{:+.3f} [{:+.3f}, {:+.3f}]", test.difference.mean,
                                               test.difference.low, test.difference.high);
    const bool both = row.at_floor[0] && row.at_floor[1];
    fmt::print("{:<20} {:>6} {:>8.3f} {:>8.3f}  {:>26} {:>8.2g}{}\n", row.attack, row.images,
               row.ssim[0], row.ssim[1], difference, test.p_value,
               both              ? "  at the floor in both"
               : row.at_floor[0] ? "  at the floor in A"
               : row.at_floor[1] ? "  at the floor in B"
                                 : "");
  }
  fmt::print(
      "\nPaired by image; the interval is the bootstrap's, p is two-sided, of random sign flips, "
      "and\n"
      "not corrected for the number of attacks. Both cover the choice of test images, not the "
      "luck\n"
      "of training: that takes runs with several seeds.\n");
}

}  // namespace

void add_compare_command(CLI::App& app) {
  struct Flags {
    std::string a, b;
    std::vector<std::string> attacks;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "compare", "Test whether an attack reconstructs more from one run than from another");
  command->add_option("a", flags->a, "A run folder that was attacked")->required();
  command->add_option("b", flags->b, "Another one, with the same scored images")->required();
  command
      ->add_option("-a,--attack", flags->attacks,
                   "One of the attacks that both have (may be repeated; default: all)")
      ->allow_extra_args(false);
  command->callback(
      [flags] { print(flags->a, flags->b, compare_runs(flags->a, flags->b, flags->attacks)); });
}

}  // namespace ens
