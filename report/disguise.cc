// SPDX-License-Identifier: Apache-2.0
// Disguised training: methods against what the cloud knows (docs/disguise.md).
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>

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
constexpr std::array<Level, 7> kLevels = {{{"L0", "L0", 0},
                                           {"L1", "L1", 0},
                                           {"L1x", "L1x", 0},
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

std::string title_of(const Run& run) { return disguise_title(run.summary.disguise()); }

// The settings that decide what a classifier learns from plain images.
std::map<std::string, std::string> training_of(const Run& run) {
  std::map<std::string, std::string> out;
  for (const auto& [path, value] : run.settings) {
    const bool decides = path.starts_with("data.") || path.starts_with("model.") ||
                         path.starts_with("stage1.") || path == "dtype";
    if (decides && path != "data.root") out[path] = value;
  }
  return out;
}

// The runs on plain images with the same classifier, data and training; those of the same parent
// folder, if there are any.
std::vector<const Run*> plain_runs(const ReportData& all, const Run& run) {
  std::vector<const Run*> beside, elsewhere;
  for (const Run& other : all.disguised) {
    if (method_of(other) != "identity" || other.task() != run.task() ||
        other.get("train_images") != run.get("train_images") ||
        training_of(other) != training_of(run)) {
      continue;
    }
    const bool sibling = other.folder.parent_path() == run.folder.parent_path();
    (sibling ? beside : elsewhere).push_back(&other);
  }
  return beside.empty() ? elsewhere : beside;
}

// Whether the attack reads plain images, as every attack should.
bool is_calibrated(const ReportData& all, const Run& run, const Attack& attack) {
  return std::ranges::any_of(plain_runs(all, run), [&](const Run* plain) {
    const Attack* same = plain->attack(attack.kind());
    return same && (same->ssim() > 0.999 ||
                    number(same->result, "matching.rank1.mean").value_or(0) > 0.999);
  });
}

// The attacks with numbers of this very level, and not only of the levels below it.
std::vector<const Attack*> attacks_of(const Run& run, const Level& level) {
  std::vector<const Attack*> out;
  for (const Attack& a : run.attacks) {
    if (a.has_numbers() && a.result.level() == level.level && reached(a, level).rank1) {
      out.push_back(&a);
    }
  }
  return out;
}

// What a cell of the matrix says: the strongest attack, and the words of NeuraCrypt's challenge.
// Neither is known where no attack of this very level was run.
struct Verdict {
  Reached best;
  const char* word = "";
};

std::optional<Verdict> verdict_at(const ReportData& all, const Run& run, const Level& level) {
  const std::vector<const Attack*> own = attacks_of(run, level);
  if (own.empty()) return {};
  const Reached best = strongest_at(run, level);
  const bool strong =
      is_calibrated(all, run, *best.attack) &&
      std::ranges::any_of(own, [&](const Attack* a) { return is_calibrated(all, run, *a); });
  return Verdict{best, verdict_word(*best.rank1, strong)};
}

std::string verdict_badge(const std::string& word) {
  return badge(word == "bad" ? "failed" : word == "good" ? "strong" : "weak", word);
}

// Whether the negative control is at chance, with 99 % confidence: the accuracy of its classifier
// on all test images, and each attack. What was not measured is not called fine.
std::string control_badge(const Run& run) {
  const auto margin = [](double chance, double n) {
    return 2.576 * std::sqrt(chance * (1 - chance) / n) + 1 / n;
  };
  std::vector<std::string> wrong, missing;
  const Maybe accuracy = run.get("accuracy"), images = run.get("test_images");
  const Maybe rarest = run.get("disguise.rarest_class"),
              commonest = run.get("disguise.commonest_class");
  if (!accuracy || !images || *images < 1 || !rarest || !commonest) {
    missing.push_back("accuracy");
  } else if (*accuracy > *commonest + margin(*commonest, *images) ||
             *accuracy < *rarest - margin(*rarest, *images)) {
    wrong.push_back(fmt::format("its classifier is right on {} of the images", percent(accuracy)));
  }
  bool attacked = false;
  for (const Attack& a : run.attacks) {
    const auto& matching = a.result.matching();
    if (!a.has_numbers() || !matching.has_gallery() || a.result.scored_images() < 1) continue;
    attacked = true;
    const double chance = 1.0 / matching.gallery();
    if (matching.rank1().mean() > chance + margin(chance, a.result.scored_images())) {
      wrong.push_back(fmt::format("{} finds {} of the originals", a.result.title(),
                                  percent(matching.rank1().mean())));
    }
  }
  if (!attacked) missing.push_back("attacks");
  if (!wrong.empty()) {
    return badge("failed", "not at chance: an error of ours") + " " +
           muted(escape(fmt::format("{}", fmt::join(wrong, "; "))));
  }
  if (missing.empty()) return badge("strong", "at chance, as it must be");
  return badge("weak", fmt::format("not checked: {}", fmt::join(missing, ", ")));
}

// Of each image, as it was trained on: all that is counted by image counts them.
double versions(const Run& run) {
  const auto augment = run.settings.find("disguise.augment");
  return augment == run.settings.end() ? 1 : std::max(1.0, std::atof(augment->second.c_str()));
}

std::string matrix_row_cell(const ReportData& all, const Run& run, const Level& level) {
  const std::optional<Verdict> verdict = verdict_at(all, run, level);
  if (!verdict) return "\u2013";
  const Reached& best = verdict->best;
  std::string out = verdict_badge(verdict->word) + "<br><b>" + percent(best.rank1) + "</b> " +
                    muted(escape(best.attack->kind()));
  if (best.guesswork) out += "<br>" + muted(fmt::format("{:g} guesses", *best.guesswork));
  return out + "<br>" + muted("SSIM " + format(best.ssim, kSsim));
}

// How well training rows are told from others; .5 is chance. Not known where that was not tried.
Maybe membership(const Run& run) {
  for (const Attack& a : run.attacks) {
    if (a.result.has_auc()) return number(a.result, "auc.mean");
  }
  return {};
}

// The accuracy that the model has for whoever holds it, by what it is given: "9.1 % plain images".
std::vector<std::string> model_use(const Run& run) {
  std::vector<std::string> out;
  for (const Attack& a : run.attacks) {
    for (const auto& use : a.result.model_use()) {
      out.push_back(percent(use.accuracy()) + " " + use.on());
    }
  }
  if (out.empty()) out.push_back("\u2013");
  return out;
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
                            right("Cloud, s<br>an epoch"),
                            right("Members<br>told, AUC"),
                            left("Model without<br>the key")};
  for (const Level& level : kLevels) head.push_back(right(level.title));
  Table table(head, "matrix");
  std::string task;
  for (const Run& run : all.disguised) {
    if (run.task() != task) table.band(escape(task = run.task()));
    const results::RunSummary::Disguise& d = run.summary.disguise();
    std::string name = escape(title_of(run));
    if (d.insecure_secrets()) name += "<br>" + badge("failed", "a seed decides its secrets");
    if (method_of(run) == "aesctr") name += "<br>" + control_badge(run);
    std::string accuracy = percent(run.get("accuracy"));
    if (const Maybe plain = plain_accuracy(all, run);
        method_of(run) != "identity" && plain && run.get("accuracy")) {
      accuracy += "<br>" + muted(points(*run.get("accuracy") - *plain));
    }
    std::vector<Cell> cells = {
        left(name),
        right(accuracy),
        right(fixed(versions(run) * d.owner_microseconds(), 1)),
        right(bytes(versions(run) * d.disguised_bytes()) + "<br>" +
              muted("of " + bytes(d.image_bytes()))),
        right(d.key_bytes() > 0 ? bytes(d.key_bytes()) : "\u2013"),
        right(seconds_per_epoch(run) > 0 ? fixed(seconds_per_epoch(run), 1) : "\u2013"),
        right(format(membership(run), kSsim)),
        left(escape(fmt::format("{}", fmt::join(model_use(run), "; "))))};
    for (const Level& level : kLevels) cells.push_back(right(matrix_row_cell(all, run, level)));
    table.add(cells);
  }
  return "<div class=\"wide\">" + table.str() + "</div>";
}

// 20 log10(255 sqrt(12) / N): no linear attack without bias goes beyond. The inverse of a Gaussian
// matrix makes noise that was added after it larger or smaller: then no such number is known.
Maybe noise_floor(const Run& run) {
  const auto noise = run.settings.find("disguise.rmt.noise");
  if (method_of(run) != "rmt" || noise == run.settings.end()) return {};
  const auto is = [&](const char* path, const char* value) {
    const auto setting = run.settings.find(path);
    return setting != run.settings.end() && setting->second == value;
  };
  if (is("disguise.rmt.matrix", "gaussian") && is("disguise.rmt.noise_place", "after")) return {};
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
                       a.result.has_auc() ? "AUC " + with_interval(a.result.auc(), kSsim)
                       : a.result.pointless().empty()
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

std::string disguise_title(const results::RunSummary::Disguise& disguise) {
  std::string title = disguise.method();
#define DISGUISE(name, text, keyed, meaning) \
  if (disguise.method() == #name) title = text;
#include "proto/disguises.inc"
#undef DISGUISE
  return title + (disguise.settings().empty() ? "" : ", " + disguise.settings());
}

bool reads_plain(const ReportData& all, const Run& run, const Attack& attack) {
  return is_calibrated(all, run, attack);
}

Maybe plain_accuracy(const ReportData& all, const Run& run) {
  const std::vector<const Run*> plain = plain_runs(all, run);
  return plain.empty() ? Maybe() : plain[0]->get("accuracy");
}

const char* verdict_word(double rank1, bool strong) {
  if (rank1 > 0.2) return "bad";
  if (rank1 >= 0.05) return "moderate";
  return strong ? "good" : "weak attacker";
}

std::string disguise_sections(const ReportData& all, FigureList& figures) {
  if (all.disguised.empty()) return "";
  const std::string curves = trade_off(all, figures) + pair_curves(all, figures);
  return section(
      "Disguised training",
      matrix(all) + "<div class=\"plots\">" + curves + "</div>" + attack_rows(all) +
          picture_strips(all),
      "What a cloud that trains on disguised images can still tell, by what it knows: "
      "L0 the disguised set alone, L1 public images too, L1x the private images too but not who "
      "is who, L2 known pairs, oracle pairs "
      "without limit; each level has what those before it have. A cell has the share of "
      "queries whose original the strongest attack picks out of a gallery of (usually) "
      "1,000: below "
      "5\u202f% good, to 20\u202f% moderate, above bad. An attack that does not read "
      "plain images is a weak attacker and earns no method a \u201cgood\u201d; where no "
      "attack of the very level was run there is a dash. Reconstructions are looked up in "
      "the gallery by their pixels and by a classifier that was trained on the plain "
      "public images, and the better of the two counts, which favours the attacker. "
      "Plain is the positive control, AES-CTR the negative one. Members told: how well "
      "the model's loss tells rows that it was trained on from others, as the area under "
      "the curve; .5 is chance. Model without the key: how often the model is right for "
      "the cloud itself, by what it is given.");
}

std::string disguise_markdown(const ReportData& all) {
  if (all.disguised.empty()) return "";
  std::string out = "| Method | Accuracy | Owner, \u00b5s | Bytes | AUC | Model without the key |";
  std::string rule = "|---|--:|--:|--:|--:|---|";
  for (const Level& level : kLevels) {
    out += fmt::format(" {} |", level.title);
    rule += "--:|";
  }
  std::string task, rows;
  for (const Run& run : all.disguised) {
    if (run.task() != task) rows += fmt::format("| **{}** |\n", task = run.task());
    const auto& d = run.summary.disguise();
    rows +=
        fmt::format("| {} | {} | {} | {} | {} | {} |", title_of(run), percent(run.get("accuracy")),
                    fixed(versions(run) * d.owner_microseconds(), 1),
                    bytes(versions(run) * d.disguised_bytes()), format(membership(run), kSsim),
                    fmt::join(model_use(run), "; "));
    for (const Level& level : kLevels) {
      const std::optional<Verdict> verdict = verdict_at(all, run, level);
      rows += verdict ? fmt::format(" {} {} ({}) |", verdict->word, percent(verdict->best.rank1),
                                    verdict->best.attack->kind())
                      : " \u2013 |";
    }
    rows += "\n";
  }
  return "### Disguised training\n\n" + out + "\n" + rule + "\n" + rows + "\n";
}

}  // namespace ens::report
