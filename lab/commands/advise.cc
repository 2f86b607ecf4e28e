// SPDX-License-Identifier: Apache-2.0
#include "report/advise.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/flags.h"
#include "lab/commands/commands.h"

namespace ens {

void add_advise_command(CLI::App& app) {
  struct Flags {
    std::vector<std::string> runs;
    report::Wish wish;
    double edge_flops = -1, edge_ms = -1, bytes = -1, bits = -1;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "advise", "Recommend a split and a protection, from runs that were attacked");
  command->add_option("--runs", flags->runs, "Run folders, or folders that contain some (a sweep)")
      ->required();
  command
      ->add_option("--max-oracle-ssim", flags->wish.max_ssim,
                   "Maximum SSIM allowed for any attack, oracle included")
      ->required()
      ->check(between(0.001, 1));
  command->add_option("-a,--attack", flags->wish.attack,
                      "Judge by this attack instead of the strongest");
  command->add_option("--dataset", flags->wish.data,
                      "Only runs on this data set (needed if there are several)");
  auto* flops_flag =
      command->add_option("--edge-flops", flags->edge_flops, "Maximum FLOPs on the edge, per image")
          ->check(above(0));
  command
      ->add_option("--edge-ms", flags->edge_ms,
                   "Maximum milliseconds on the edge, per image (of runs that were served)")
      ->check(above(0))
      ->excludes(flops_flag);
  command
      ->add_option("--bytes", flags->bytes, "Maximum bytes on the wire per image, both directions")
      ->check(above(0));
  command
      ->add_option("--max-bits", flags->bits,
                   "Maximum bits of information about the image in one request: only channels "
                   "(docs/channel.md) have such a limit")
      ->check(above(0));
  command->callback([flags] {
    const auto given = [](double value) { return value > 0 ? report::Maybe(value) : std::nullopt; };
    report::Wish wish = flags->wish;
    wish.edge_flops = given(flags->edge_flops);
    wish.edge_ms = given(flags->edge_ms);
    wish.bytes = given(flags->bytes);
    wish.bits = given(flags->bits);
    const report::ReportData all = report::collect({flags->runs.begin(), flags->runs.end()});
    for (const report::Skipped& s : all.skipped)
      fmt::print(stderr, "left out: {}: {}\n", s.what, s.reason);
    if (all.runs.empty()) {
      fail("no finished run to judge", flags->runs[0], "train and attack some: ensembler sweep");
    }
    const report::Advice advice = report::advise(all, wish);
    fmt::print("{}", report::as_text(advice, wish));
    if (!advice.fitting.empty()) return;
    std::fflush(stdout);
    if (advice.nearest.empty()) {
      fail("no run can be judged", "advise",
           "attack them, and an unprotected run of the same split, with all attacks: ensembler "
           "attack");
    }
    fail("nothing fits", "advise", "nearest: " + advice.nearest);
  });
}

}  // namespace ens
