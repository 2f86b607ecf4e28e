// SPDX-License-Identifier: Apache-2.0
// Disguised training: methods against what the cloud knows (docs/disguise.md).
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "proto/config.h"
#include "report/html.h"
#include "report/sections.h"

namespace ens::report {
namespace {

// The columns of the matrix, each with all that the ones before it know.
struct Level {
  const char* title;
  const char* level;  // AttackResult::level
  double pairs;       // of L2: at most so many
};
constexpr std::array<Level, 6> kLevels = {{{"L0", "L0", 0},
                                           {"L1", "L1", 0},
                                           {"L2, 1 pair", "L2", 1},
                                           {"L2, 10 pairs", "L2", 10},
                                           {"L2, 1000 pairs", "L2", 1000},
                                           {"oracle", "oracle", 0}}};

size_t rank_of(const std::string& level) {
  for (size_t i = 0; i < kLevels.size(); ++i) {
    if (level == kLevels[i].level) return i;
  }
  return kLevels.size();
}

// What one attack reached: all of it, or its curve up to some number of pairs.
struct Reached {
  const Attack* attack = nullptr;
  Maybe rank1, ssim, psnr, guesswork;
};

Reached reached(const Attack& a, const Level& level) {
  const results::AttackResult& r = a.result;
  Reached out{&a, number(r, "matching.rank1.mean"), number(r, "ssim.mean"), number(r, "psnr.mean"),
              number(r, "matching.guesswork")};
  if (r.level() != "L2" || rank_of(level.level) > rank_of("L2")) return out;
  out = {};
  for (const auto& part : r.parts()) {
    if (!part.has_x() || part.x() > level.pairs) continue;
    out = {&a, number(part, "matching.rank1.mean"), number(part, "ssim"), number(part, "psnr"),
           number(part, "matching.guesswork")};
  }
  return out;
}

// Of the attacks that know no more than the level, the one that finds most originals; without an
// attack if none was run.
Reached strongest_at(const Run& run, const Level& level) {
  Reached best;
  for (const Attack& a : run.attacks) {
    if (!a.has_numbers() || rank_of(a.result.level()) > rank_of(level.level)) continue;
    const Reached one = reached(a, level);
    if (one.attack && one.rank1 && (!best.attack || *one.rank1 > *best.rank1)) best = one;
  }
  return best;
}

const std::string& method_of(const Run& run) { return run.summary.disguise().method(); }

std::string title_of(const Run& run) {
  std::string title = method_of(run);
#define DISGUISE(name, text, keyed, meaning) \
  if (method_of(run) == #name) title = text;
#include "proto/disguises.inc"
#undef DISGUISE
  const std::string& settings = run.summary.disguise().settings();
  return title + (settings.empty() ? "" : ", " + settings);
}

// The run on plain images with the same classifier and data.
const Run* plain_run(const ReportData& all, const Run& run) {
  for (const Run& other : all.disguised) {
    if (method_of(other) == "identity" && other.task() == run.task()) return &other;
  }
  return nullptr;
}

// Whether the attack reads plain images, as every attack should.
bool is_calibrated(const ReportData& all, const Run& run, const Attack& attack) {
  for (const Run& other : all.disguised) {
    if (method_of(other) != "identity" || other.summary.data() != run.summary.data()) continue;
    const Attack* same = other.attack(attack.kind());
    if (same &&
        (same->ssim() > 0.999 || number(same->result, "matching.rank1.mean").value_or(0) > 0.999)) {
      return true;
    }
  }
  return false;
}

bool any_calibrated(const ReportData& all, const Run& run, const Level& level) {
  return std::ranges::any_of(run.attacks, [&](const Attack& a) {
    return a.has_numbers() && rank_of(a.result.level()) <= rank_of(level.level) &&
           is_calibrated(all, run, a);
  });
}

// The words of NeuraCrypt's challenge.
const char* verdict(const ReportData& all, const Run& run, const Level& level, double rank1) {
  if (rank1 > 0.2) return "bad";
  if (rank1 >= 0.05) return "moderate";
  return any_calibrated(all, run, level) ? "good" : "weak attacker";
}

std::string verdict_badge(const std::string& word) {
  return badge(word == "bad" ? "failed" : word == "good" ? "strong" : "weak", word);
}

// Why a run of the negative control is not at chance, with 99 % confidence; "" if it is.
std::string above_chance(const Run& run) {
  const auto high = [](double chance, double n) {
    return chance + 2.576 * std::sqrt(chance * (1 - chance) / std::max(1.0, n)) + 1 / n;
  };
  for (const Attack& a : run.attacks) {
    if (!a.has_numbers()) continue;
    const auto& matching = a.result.matching();
    if (matching.has_gallery() &&
        matching.rank1().mean() > high(1.0 / matching.gallery(), a.result.scored_images())) {
      return fmt::format("{} finds {} of the originals", a.result.title(),
                         percent(matching.rank1().mean()));
    }
    const auto& seen = a.result.reference();
    const Maybe accuracy = run.get("accuracy"), images = run.get("test_images");
    if (accuracy && images && seen.has_chance() && *accuracy > high(seen.chance(), *images)) {
      return fmt::format("its classifier is right on {} of the images", percent(accuracy));
    }
  }
  return "";
}

std::string matrix_row_cell(const ReportData& all, const Run& run, const Level& level) {
  const Reached best = strongest_at(run, level);
  if (!best.attack) return "\u2013";
  std::string out = verdict_badge(verdict(all, run, level, *best.rank1)) + "<br><b>" +
                    percent(best.rank1) + "</b> " + muted(escape(best.attack->kind()));
  if (best.guesswork) out += "<br>" + muted(fmt::format("{:g} guesses", *best.guesswork));
  return out + "<br>" + muted("SSIM " + format(best.ssim, kSsim));
}

double seconds_per_epoch(const Run& run) {
  const auto& seconds = run.summary.seconds();
  const auto stage1 = seconds.find("stage1");
  const auto epochs = run.settings.find("stage1.epochs");
  if (stage1 == seconds.end() || epochs == run.settings.end()) return 0;
  return stage1->second / std::max(1, std::atoi(epochs->second.c_str()));
}

std::string matrix(const ReportData& all) {
  std::vector<Cell> head = {left("Method"),
                            right("Accuracy;<br>change, points"),
                            right("Owner, \u00b5s<br>an image"),
                            right("Bytes<br>an image"),
                            right("Key"),
                            right("Cloud, s<br>an epoch")};
  for (const Level& level : kLevels) head.push_back(right(level.title));
  Table table(head, "matrix");
  std::string task;
  for (const Run& run : all.disguised) {
    if (run.task() != task) table.band(escape(task = run.task()));
    const results::RunSummary::Disguise& d = run.summary.disguise();
    std::string name = escape(title_of(run));
    if (d.insecure_secrets()) name += "<br>" + badge("failed", "a seed decides its secrets");
    if (method_of(run) == "aesctr") {
      const std::string why = above_chance(run);
      name += "<br>" + (why.empty() ? badge("strong", "at chance, as it must be")
                                    : badge("failed", "not at chance: an error of ours") + " " +
                                          muted(escape(why)));
    }
    std::string accuracy = percent(run.get("accuracy"));
    if (const Run* open = plain_run(all, run);
        open && open != &run && open->get("accuracy") && run.get("accuracy")) {
      accuracy += "<br>" + muted(points(*run.get("accuracy") - *open->get("accuracy")));
    }
    std::vector<Cell> cells = {
        left(name),
        right(accuracy),
        right(fixed(d.owner_microseconds(), 1)),
        right(bytes(d.disguised_bytes()) + "<br>" + muted("of " + bytes(d.image_bytes()))),
        right(d.key_bytes() > 0 ? bytes(d.key_bytes()) : "\u2013"),
        right(seconds_per_epoch(run) > 0 ? fixed(seconds_per_epoch(run), 1) : "\u2013")};
    for (const Level& level : kLevels) cells.push_back(right(matrix_row_cell(all, run, level)));
    table.add(cells);
  }
  return "<div class=\"wide\">" + table.str() + "</div>";
}

// 20 log10(255 sqrt(12) / N): no linear attack without bias goes beyond.
Maybe noise_floor(const Run& run) {
  const auto noise = run.settings.find("disguise.rmt.noise");
  if (method_of(run) != "rmt" || noise == run.settings.end()) return {};
  const double n = std::atof(noise->second.c_str());
  return n > 0 ? Maybe(20 * std::log10(255 * std::sqrt(12.0) / n)) : Maybe();
}

std::string attack_rows(const ReportData& all) {
  Table table({left("Run"), left("Attack"), left("Level"), right("SSIM"), right("PSNR, dB"),
               right("Noise floor"), right("Rank-1"), right("CMC 5"), right("CMC 20"),
               right("Guesses"), right("Hits"), left("On plain images"), right("Time")});
  for (const Run& run : all.disguised) {
    for (const Attack& a : run.attacks) {
      const std::string name = escape(run.summary.data() + ", " + title_of(run));
      if (!a.has_numbers()) {
        table.add_wide(name + ", " + escape(a.result.title()),
                       a.result.pointless().empty()
                           ? badge("failed", "failed") + " " + escape(a.result.error())
                           : muted(escape(a.result.pointless())));
        continue;
      }
      const auto value = [&](const char* path) { return number(a.result, path); };
      std::string hits = "\u2013";
      if (a.result.has_hits()) {
        hits = percent(value("hits.all")) + "<br>" +
               muted(percent(value("hits.non_constant")) + " of non-constant");
      }
      table.add({left(name), left(escape(a.result.title())), left(escape(a.result.level())),
                 right(with_interval(a.result.ssim(), kSsim)),
                 right(with_interval(a.result.psnr(), kPsnr)),
                 right(format(noise_floor(run), kPsnr)),
                 right(percent(value("matching.rank1.mean"))),
                 right(percent(value("matching.cmc5"))), right(percent(value("matching.cmc20"))),
                 right(format(value("matching.guesswork"), 0)), right(hits),
                 left(is_calibrated(all, run, a) ? badge("strong", "reads them")
                                                 : badge("weak", "weak attacker")),
                 right(duration(a.result.seconds()))});
    }
  }
  return details("All attacks on disguised training",
                 "<div class=\"wide\">" + table.str() + "</div>");
}

// Accuracy over the originals that stay hidden at L1; noise and dp as curves.
std::string trade_off(const ReportData& all, FigureList& figures) {
  std::string out;
  std::vector<std::string> tasks;
  for (const Run& run : all.disguised) {
    if (std::ranges::count(tasks, run.task()) == 0) tasks.push_back(run.task());
  }
  for (const std::string& task : tasks) {
    Figure figure{task, "originals not found with public images, %", "accuracy, %", {}};
    for (const Run& run : all.disguised) {
      const Reached best = strongest_at(run, kLevels[1]);
      const Maybe accuracy = run.get("accuracy");
      if (run.task() != task || !best.attack || !accuracy) continue;
      const bool curve = method_of(run) == "dp" || method_of(run) == "noise";
      const std::string name = curve ? method_of(run) : title_of(run);
      auto line = std::ranges::find(figure.lines, name, &Line::name);
      if (line == figure.lines.end()) line = figure.lines.insert(line, {name, {}});
      line->points.push_back({100 * (1 - *best.rank1), 100 * *accuracy, {}, {}, {}, {}, ""});
    }
    for (Line& line : figure.lines) std::ranges::sort(line.points, {}, &Point::x);
    out += figures.add("disguise-" + task, figure);
  }
  return out;
}

std::string pair_curves(const ReportData& all, FigureList& figures) {
  std::string out;
  for (const Run& run : all.disguised) {
    Figure figure{
        run.summary.data() + ", " + title_of(run), "known pairs", "originals found, %", {}};
    figure.log_x = true;
    for (const Attack& a : run.attacks) {
      if (!a.has_numbers() || a.result.level() != "L2") continue;
      Line line{a.kind(), {}};
      for (const auto& part : a.result.parts()) {
        const Maybe rank1 = number(part, "matching.rank1.mean");
        if (part.has_x() && rank1)
          line.points.push_back({part.x(), 100 * *rank1, {}, {}, {}, {}, ""});
      }
      if (line.points.size() > 1) figure.lines.push_back(line);
    }
    if (!figure.lines.empty()) out += figures.add("disguise-pairs-" + run.name, figure);
  }
  return out;
}

// Originals, as the cloud gets them, and what the strongest attacks rebuilt.
std::string picture_strips(const ReportData& all) {
  std::string out;
  for (const Run& run : all.disguised) {
    std::string strips;
    const auto strip = [&](const std::string& caption, const std::string& png) {
      const auto [width, height] = png_size(png);
      strips += fmt::format(
          "<div class=\"strip\"><div class=\"caption\">{}</div><div class=\"tiles\"><img "
          "alt=\"{}\" "
          "width=\"{}\" height=\"{}\" "
          "style=\"image-rendering:pixelated;max-width:100%;height:auto\" "
          "src=\"data:image/png;base64,{}\"></div></div>\n",
          caption, caption, 2 * width, 2 * height, base64(png));
    };
    for (const Attack& a : run.attacks) {
      if (!a.has_pictures() || !a.has_numbers()) continue;
      if (strips.empty()) strip("original", a.original_png);
      strip(escape(a.kind() == "look" ? "disguised" : a.kind()) + ", " + escape(a.result.level()),
            a.reconstruction_png);
    }
    if (!strips.empty()) {
      out += "<h3>" + escape(run.task() + ", " + title_of(run)) + "</h3><div class=\"strips\">" +
             strips + "</div>\n";
    }
  }
  return details("Pictures: original, disguised, rebuilt", out);
}

}  // namespace

std::string disguise_sections(const ReportData& all, FigureList& figures) {
  if (all.disguised.empty()) return "";
  const std::string curves = trade_off(all, figures) + pair_curves(all, figures);
  return section("Disguised training",
                 matrix(all) + "<div class=\"plots\">" + curves + "</div>" + attack_rows(all) +
                     picture_strips(all),
                 "What a cloud that trains on disguised images can still tell, by what it knows: "
                 "L0 the disguised set alone, L1 public images too, L2 known pairs, oracle pairs "
                 "without limit; each level has what those before it have. A cell has the share of "
                 "queries whose original the strongest attack picks out of a gallery of (usually) "
                 "1,000: below "
                 "5\u202f% good, to 20\u202f% moderate, above bad. An attack that does not read "
                 "plain images is a weak attacker and earns no method a \u201cgood\u201d. "
                 "Plain is the positive control, AES-CTR the negative one.");
}

std::string disguise_markdown(const ReportData& all) {
  if (all.disguised.empty()) return "";
  std::string out = "| Method | Accuracy | Owner, \u00b5s | Bytes |", rule = "|---|--:|--:|--:|";
  for (const Level& level : kLevels) {
    out += fmt::format(" {} |", level.title);
    rule += "--:|";
  }
  std::string task, rows;
  for (const Run& run : all.disguised) {
    if (run.task() != task) rows += fmt::format("| **{}** |\n", task = run.task());
    const auto& d = run.summary.disguise();
    rows += fmt::format("| {} | {} | {} | {} |", title_of(run), percent(run.get("accuracy")),
                        fixed(d.owner_microseconds(), 1), bytes(d.disguised_bytes()));
    for (const Level& level : kLevels) {
      const Reached best = strongest_at(run, level);
      rows += best.attack ? fmt::format(" {} {} ({}) |", verdict(all, run, level, *best.rank1),
                                        percent(best.rank1), best.attack->kind())
                          : " \u2013 |";
    }
    rows += "\n";
  }
  return "### Disguised training\n\n" + out + "\n" + rule + "\n" + rows + "\n";
}

}  // namespace ens::report
