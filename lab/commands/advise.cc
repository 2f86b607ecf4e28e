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
    double edge_flops = -1, edge_ms = -1, bytes = -1;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "advise", "Which split and protection to use, from finished and attacked runs");
  command->add_option("--runs", flags->runs, "Run folders, or folders that hold some (a sweep)")
      ->required();
  command
      ->add_option("--max-oracle-ssim", flags->wish.max_ssim,
                   "Most SSIM that the strongest attack, the oracle included, may reach")
      ->required()
      ->check(between(0.001, 1));
  command->add_option("-a,--attack", flags->wish.attack,
                      "Let this attack count instead of the strongest");
  command->add_option("--dataset", flags->wish.data, "Of several data sets the one to advise on");
  auto* flops_flag =
      command->add_option("--edge-flops", flags->edge_flops, "Most FLOPs on the edge, per image")
          ->check(above(0));
  command
      ->add_option("--edge-ms", flags->edge_ms,
                   "Most milliseconds on the edge (measured where a run was served)")
      ->check(above(0))
      ->excludes(flops_flag);
  command->add_option("--bytes", flags->bytes, "Most bytes on the wire per image, both directions")
      ->check(above(0));
  command->callback([flags] {
    const auto given = [](double value) { return value > 0 ? report::Maybe(value) : std::nullopt; };
    report::Wish wish = flags->wish;
    wish.edge_flops = given(flags->edge_flops);
    wish.edge_ms = given(flags->edge_ms);
    wish.bytes = given(flags->bytes);
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
