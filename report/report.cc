// SPDX-License-Identifier: Apache-2.0
#include "report/report.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <set>
#include <string_view>

#include "base/error.h"
#include "base/files.h"
#include "proto/protections.h"
#include "report/data.h"
#include "report/html.h"
#include "report/sections.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using namespace ens::report;

// The run that the page is about: protected if there is one, and attacked if there is one.
const Run& main_run(const ReportData& all) {
  const auto rank = [](const Run& r) {
    const ProtectionInfo* known = find_protection(r.protection());
    const bool selects = known && known->nets == ServerNets::kSelected;
    return (selects ? 4 : r.is_protected() ? 2 : 0) + !r.attacks.empty();
  };
  return *std::max_element(all.runs.begin(), all.runs.end(),
                           [&](const Run& a, const Run& b) { return rank(a) < rank(b); });
}

// What the numbers of one run say, and what they do not.
std::string verdict(const ReportData& all, const Run& run) {
  std::string out = "<p><b>" + escape(run.label) + ".</b> ";
  const Run* none = run.baseline >= 0 ? &all.runs[static_cast<size_t>(run.baseline)] : nullptr;
  if (run.is_protected() && run.accuracy_change) {
    out += fmt::format("Accuracy {} against {} without protection ({}). ",
                       percent(run.get("accuracy")), percent(none->get("accuracy")),
                       points(run.accuracy_change));
  } else if (run.get("accuracy")) {
    out += fmt::format("Accuracy {}. ", percent(run.get("accuracy")));
  }
  const Attack* oracle = run.attack("oracle", run.metric());
  if (oracle && !oracle->can_measure()) {
    out += fmt::format(
        "The decoder on the client\u2019s true features reached SSIM {} and is too weak to measure "
        "by: {}. Nothing is known of how much the features hold; train it on more "
        "(attack.public_images, attack.decoder.epochs, attack.tier=full). ",
        fixed(oracle->below_floor.value_or(oracle->ssim()), 3), escape(oracle->why));
    oracle = nullptr;
  } else if (oracle) {
    out += fmt::format(
        "{} decoder trained on the client\u2019s true features reconstructs the images with SSIM "
        "{}",
        oracle->is_upper_bound() ? "At most, a" : "A", fixed(oracle->ssim(), 3));
    const Attack* open = none && none != &run ? none->attack("oracle", run.metric()) : nullptr;
    if (open && open->can_measure()) {
      out += fmt::format(" ({} without protection, a difference of {})", fixed(open->ssim(), 3),
                         fixed(oracle->ssim() - open->ssim(), 3, true));
    }
    out += oracle->is_upper_bound()
               ? ". "
               : "; it was not grown until it gained no more (attack.tier=full), so the features "
                 "may hold more. ";
  } else if (!run.attacks.empty()) {
    out +=
        "No decoder was trained on true features, so it is not known how much the features hold at "
        "most. ";
  }
  const Attack* best = strongest(run);
  if (best) {
    const std::string reached = fixed(*best->best_ssim(), 3);
    if (best->below_floor) {
      out += "No attack here read more than a blind guess does, " + reached;
    } else {
      out +=
          fmt::format("The strongest attack here, {}, reached {}{}", quoted(best->result.title()),
                      reached, *best->best_ssim() > best->ssim() ? " as a negative" : "");
    }
    if (oracle) {
      const bool near = *best->best_ssim() >= oracle->ssim() - kNearOracle;
      out += near ? fmt::format(", within {} of that decoder or above: ", kNearOracle)
                  : fmt::format(" and stayed more than {} below that decoder: ", kNearOracle);
      if (near) {
        out += !run.is_protected() ? "as expected with nothing to stop it"
                                   : "<strong>this protection did not stop it</strong>";
      } else {
        out += "the features hold more than these attacks took out";
      }
    }
    out += ". ";
  } else if (run.attacks.empty()) {
    out += "It was not attacked. ";
  }
  const auto count = [&](auto&& test) {
    return std::count_if(run.attacks.begin(), run.attacks.end(), [&](const Attack& a) {
      return !a.is_oracle() && a.has_numbers() && test(a);
    });
  };
  const auto attacks = count([](const Attack& a) { return !a.is_floor(); });
  const auto of = [&](Strength strength) {
    return count([&](const Attack& a) { return !a.is_floor() && a.strength == strength; });
  };
  if (const auto failed = of(Strength::kFailed); failed > 0) {
    out += fmt::format(
        "Failed: {} of {} attacks read nothing from the features; the numbers beside them are "
        "those of a blind guess and say nothing for the protection. ",
        failed, attacks);
  }
  if (const auto weak = of(Strength::kWeak); weak > 0) {
    out += fmt::format(
        "Weak attackers: {} of {}. They fall short of 80\u202f% of the decoder on true features "
        "even against no protection, so their low numbers say little about how safe the images "
        "are. ",
        weak, attacks);
  }
  if (const auto unknown = of(Strength::kNotCalibrated); unknown > 0) {
    out += fmt::format("{} of {} attacks are not calibrated. ", unknown, attacks);
  }
  return out + "</p>\n";
}

std::string headline(const ReportData& all) {
  const Run& run = main_run(all);
  std::string cards;
  const auto card = [&](const std::string& label, const std::string& value,
                        const std::string& note) {
    cards += fmt::format(
        "<div class=\"card\"><div class=\"label\">{}</div><div class=\"value\">{}</div>"
        "<div class=\"muted\">{}</div></div>\n",
        label, value, note);
  };
  if (run.get("accuracy")) {
    card("Test accuracy", percent(run.get("accuracy")),
         run.is_protected() && run.accuracy_change
             ? points(run.accuracy_change) + " against no protection"
         : !run.is_protected() ? "no protection"
                               : "no unprotected run to compare");
  }
  if (const Attack* best = strongest(run)) {
    card("Strongest attack, SSIM", fixed(*best->best_ssim(), 3),
         best->below_floor ? "a blind guess: no attack read more" : escape(best->result.title()));
  }
  if (const Attack* oracle = run.attack("oracle", run.metric()); oracle && oracle->can_measure()) {
    card(oracle->is_upper_bound() ? "Leaks at most, SSIM" : "Leaks at least, SSIM",
         fixed(oracle->ssim(), 3), "decoder on true features");
  }
  if (const Maybe total = run.latency("total")) {
    card("Latency, p50", format(total, kMs, " ms"),
         "p95 " + format(run.latency("total", "p95"), kMs, " ms"));
  }
  Maybe up = run.get("bytes.up"), down = run.get("bytes.down");
  if (run.serving && run.serving->has_bytes_sent())
    up = run.serving->bytes_sent(), down = run.serving->bytes_received();
  if (up) card("On the wire, per image", bytes(up) + " up", bytes(down) + " down");

  constexpr size_t kShown = 4;
  const auto joined = [&](auto&& field) {  // the different values over all runs
    std::string out;
    std::set<std::string> seen;
    for (const Run& r : all.runs) {
      const std::string value = field(r);
      if (value.empty() || !seen.insert(value).second || seen.size() > kShown) continue;
      out += (out.empty() ? "" : "<br>") + escape(value);
    }
    if (seen.size() > kShown)
      out += "<br>" + muted(fmt::format("and {} more", seen.size() - kShown));
    return out;
  };
  std::string facts;
  const auto fact = [&](const char* label, const std::string& html) {
    if (!html.empty()) facts += fmt::format("<dt>{}</dt><dd>{}</dd>\n", label, html);
  };
  for (const Sweep& sweep : all.sweeps) {
    fact("Sweep",
         escape(sweep.state.title().empty() ? sweep.folder.string() : sweep.state.title()) +
             fmt::format(": {} of {} cells have a run", sweep.done, sweep.state.cells_size()) +
             "<br>" + muted(escape(sweep.state.command())));
  }
  fact("Data and model", joined([](const Run& r) { return r.setting(); }));
  fact("Machine", joined([](const Run& r) {
         return r.info.processor() +
                (r.info.processor().empty() || r.info.device().empty() ? "" : ", ") +
                r.info.device();
       }));
  fact("Version", joined([](const Run& r) {
         return r.info.version() +
                (r.info.revision().empty() ? "" : " (revision " + r.info.revision() + ")");
       }));
  fact("Runs", joined([](const Run& r) {
         return r.label +
                (r.seed() && r.label.find(", seed ") == std::string::npos
                     ? fmt::format(", seed {}", *r.seed())
                     : "") +
                (r.info.started().empty() ? "" : ", started " + r.info.started());
       }));
  fact("Commands", joined([](const Run& r) { return r.info.command(); }));
  if (run.summary.has_disguise() || run.summary.has_text()) {  // their own tables say more
    cards = "<div>";
  } else if (all.runs.size() > 1) {
    cards = "<p class=\"muted\">These figures are of " + escape(run.label) + ", " +
            escape(run.setting()) + ":</p>\n<div class=\"cards\">" + cards;
  } else {
    cards = "<div class=\"cards\">" + cards;
  }
  return cards + "</div>\n<dl>" + facts + "</dl>\n";
}

std::string findings(const ReportData& all) {
  if (all.runs.empty()) return "";
  const Run& main = main_run(all);
  const bool fold = all.runs.size() > kManyRuns;
  std::string out, others;
  for (const Run& run : all.runs) (fold && &run != &main ? others : out) += verdict(all, run);
  if (fold) out += details(fmt::format("The other {} runs", all.runs.size() - 1), others);
  size_t fewest = 3;
  for (const Comparison& comparison : all.comparisons) {
    for (const SeedGroup& row : comparison.rows) fewest = std::min(fewest, row.runs.size());
  }
  if (fewest < 3) {
    out +=
        "<p class=\"muted\">Not every row has three training seeds: an interval of one run covers "
        "the choice of test images, not the luck of training.</p>\n";
  }
  return section("What the numbers say", out);
}

// Links to the sections of a page: <section id="latency"><h2>Latency</h2>.
std::string contents(const std::string& body) {
  constexpr std::string_view kId = "<section id=\"", kHead = "\"><h2>";
  std::string out;
  for (size_t at = 0; (at = body.find(kId, at)) != std::string::npos;) {
    at += kId.size();
    const size_t head = body.find(kHead, at), title = head + kHead.size();
    out += fmt::format("<a href=\"#{}\">{}</a>\n", body.substr(at, head - at),
                       body.substr(title, body.find('<', title) - title));
  }
  return "<nav>" + out + "</nav>\n";
}

// Now, or the time that SOURCE_DATE_EPOCH asks for (reproducible-builds.org).
std::string written() {
  const char* fixed_time = std::getenv("SOURCE_DATE_EPOCH");
  return fmt::format("{:%Y-%m-%d %H:%M} UTC",
                     fmt::gmtime(fixed_time ? std::atol(fixed_time) : std::time(nullptr)));
}

// `every`: with the disguised trainings among the runs.
std::string page(const ReportData& all, const ReportData& every, const std::string& stem,
                 FigureList& figures) {
  const size_t count = every.runs.size();
  const std::string covers =
      all.runs.empty()              ? (all.disguised.empty() ? "translation" : "disguised training")
      : all.comparisons.size() == 1 ? escape(main_run(all).setting())
                                    : fmt::format("{} settings", all.comparisons.size());
  const std::string title = all.sweeps.size() == 1 && !all.sweeps[0].state.title().empty()
                                ? escape(all.sweeps[0].state.title())
                                : "Ensembler report";
  Album album(all);
  const std::string sections =
      disguise_sections(all, figures) + text_sections(all) + overview_table(all) + findings(all) +
      certificates(all) + split_grids(all, album) + pictures(all, album) +
      attack_curves(all, figures) + trade_offs(all, figures) + published_table(all) +
      accuracy_table(all) + latency(all) + attack_table(all) + training_curves(all, figures) +
      run_details(all) + skipped_list(all);
  return fmt::format(
      fmt::runtime(kPage), fmt::arg("title", title),
      fmt::arg("setting", all.runs.empty() ? covers : escape(main_run(all).setting())),
      fmt::arg("style", kStyle + album.style()),
      fmt::arg("body", headline(all.runs.empty() ? every : all) + contents(sections) + sections),
      fmt::arg("stem", escape(stem)), fmt::arg("written", written()), fmt::arg("covers", covers),
      fmt::arg("runs", fmt::format("{} run{}", count, count == 1 ? "" : "s")),
      fmt::arg("failed", all.failed.empty()
                             ? ""
                             : fmt::format(" <strong>{} cell{} without a run; the tables say "
                                           "why.</strong>",
                                           all.failed.size(), all.failed.size() == 1 ? "" : "s")),
      fmt::arg("skipped", all.skipped.empty()
                              ? ""
                              : fmt::format(" <strong>{} left out, listed at the end.</strong>",
                                            all.skipped.size())));
}

}  // namespace

void write_report(const std::vector<fs::path>& folders, const fs::path& html,
                  const fs::path& figure_folder) {
  const ReportData all = collect(folders);
  if (all.runs.empty() && all.disguised.empty() && all.translated.empty()) {
    const std::string where = all.skipped.empty()
                                  ? (folders.empty() ? "" : folders[0].string())
                                  : all.skipped[0].what + ": " + all.skipped[0].reason;
    fail("no finished run to report on", where, "train one first: ensembler train --help");
  }
  const auto beside = [&](const char* extension) {
    return fs::path(html).replace_extension(extension);
  };
  ReportData every = all;  // for programs: one list
  every.runs.insert(every.runs.end(), all.disguised.begin(), all.disguised.end());
  every.runs.insert(every.runs.end(), all.translated.begin(), all.translated.end());
  write_file_atomically(beside(".csv"), as_csv(every), /*secret=*/false);
  write_file_atomically(beside(".json"), as_json(every), /*secret=*/false);
  write_file_atomically(
      beside(".md"),
      disguise_markdown(all) + text_markdown(all) + (all.runs.empty() ? "" : as_markdown(all)),
      /*secret=*/false);
  write_file_atomically(beside(".tex"), as_latex(all), /*secret=*/false);
  FigureList figures;
  write_file_atomically(html, page(all, every, html.stem().string(), figures), /*secret=*/false);
  if (!figure_folder.empty()) figures.write(figure_folder);
}

}  // namespace ens
