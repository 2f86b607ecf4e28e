// SPDX-License-Identifier: Apache-2.0
// Curves: over epochs, over whatever a sweep varies, over what an attack has.
#include <fmt/format.h>

#include <algorithm>

#include "report/html.h"
#include "report/sections.h"

namespace ens::report {
namespace {

constexpr size_t kManyPlots = 9;
constexpr size_t kMostLines = 8;  // in a figure of known pairs

std::string plots(const std::string& html) { return "<div class=\"plots\">" + html + "</div>\n"; }

struct Place {  // a row with its setting
  const Comparison* comparison;
  const SeedGroup* row;
  const Run* run;
};

std::vector<Place> places(const ReportData& all) {
  std::vector<Place> out;
  for (const Comparison& comparison : all.comparisons) {
    for (const SeedGroup& row : comparison.rows)
      out.push_back({&comparison, &row, &all.first(row)});
  }
  return out;
}

const SeedGroupAttack* strongest_of(const SeedGroup& row) {
  const SeedGroupAttack* best = nullptr;
  for (const SeedGroupAttack& a : row.attacks) {
    if (a.kind == "oracle" || a.level == "blind" || a.metric != "default" ||
        !a.best_ssim.has_mean())
      continue;
    if (!best || a.best_ssim.mean() > best->best_ssim.mean()) best = &a;
  }
  return best;
}

// With the interval that the tables have.
Point point(double x, const Interval& y) {
  return {x, y.mean(), number(y, "low"), number(y, "high"), {}, {}, ""};
}

// One dot a row: how much an attack gets, against how accurate the protected net is.
std::string against_accuracy(const std::vector<Place>& all, FigureList& figures) {
  std::string out;
  std::map<std::string, std::vector<Place>> tasks;
  for (const Place& place : all) tasks[place.run->task()].push_back(place);
  for (const auto& [name, rows] : tasks) {
    for (const bool oracle : {true, false}) {
      std::vector<Line> lines;  // by protection
      std::set<double> accuracies;
      for (const Place& p : rows) {
        const SeedGroupAttack* a =
            oracle ? p.row->attack("oracle", "default") : strongest_of(*p.row);
        if (!a || !a->best_ssim.has_mean() || !p.row->accuracy.has_mean()) continue;
        const std::string protection = p.run->protection_name();
        auto line = std::find_if(lines.begin(), lines.end(),
                                 [&](const Line& l) { return l.name == protection; });
        if (line == lines.end()) line = lines.insert(lines.end(), {protection, {}});
        accuracies.insert(p.row->accuracy.mean());
        Point dot = point(p.row->accuracy.mean() * 100, a->best_ssim);
        if (p.row->accuracy.has_low()) {
          dot.x_low = p.row->accuracy.low() * 100;
          dot.x_high = p.row->accuracy.high() * 100;
        }
        dot.label = p.row->title + ", " + p.comparison->title + ", " + a->title;
        line->points.push_back(dot);
      }
      if (accuracies.size() < 2) continue;
      const std::string title = fmt::format("SSIM against accuracy: {} ({})",
                                            oracle ? "oracle" : "strongest attack", name);
      out += figures.add(title, {title, "accuracy, %", "SSIM", lines, /*dots_only=*/true});
    }
  }
  return out.empty() ? "" : "<h3>Against accuracy</h3>\n" + plots(out);
}

// SSIM of each attack, and the accuracy, of rows that agree in everything but one number.
std::string over(const std::vector<Place>& all, const std::string& path, FigureList& figures) {
  struct Curve {
    std::string title;
    std::map<std::string, std::map<double, Interval>> lines;
    std::set<double> xs;
  };
  std::map<std::string, Curve> curves;
  std::vector<std::string> order;
  for (const Place& p : all) {
    const auto value = p.run->settings.find(path);
    if (value == p.run->settings.end()) continue;
    double x = 0;
    try {
      x = std::stod(value->second);
    } catch (const std::logic_error&) {
      continue;
    }
    const std::string key = identity(*p.run, {path});
    if (!curves.count(key)) order.push_back(key);
    Curve& curve = curves[key];
    if (curve.title.empty()) {
      curve.title = p.run->protection_name();
      for (const char* fixed :
           {"data.name", "model.head_cells", "model.tail_cells", "ensemble.nets",
            "ensemble.selected", "ensemble.sigma", "ensemble.lambda"}) {
        const auto it = p.run->settings.find(fixed);
        if (it == p.run->settings.end() || fixed == path) continue;
        curve.title += ", " + path_label(fixed) + " = " + it->second;
      }
    }
    curve.xs.insert(x);
    if (p.row->accuracy.has_mean()) curve.lines["accuracy"][x] = p.row->accuracy;
    for (const SeedGroupAttack& a : p.row->attacks) {
      if (a.best_ssim.has_mean() && a.metric == "default") curve.lines[a.title][x] = a.best_ssim;
    }
  }
  std::string out;
  size_t count = 0;
  for (const std::string& key : order) {
    const Curve& curve = curves[key];
    if (curve.xs.size() < 2 || curve.lines.size() < 2) continue;
    std::vector<Line> lines;
    for (const auto& [name, points] : curve.lines) {
      lines.push_back({name, {}});
      for (const auto& [x, y] : points) lines.back().points.push_back(point(x, y));
    }
    out += figures.add("over " + path + " " + curve.title,
                       {curve.title, path_label(path), "SSIM, accuracy", lines});
    ++count;
  }
  if (out.empty()) return "";
  const std::string title = "Over " + escape(path_label(path));
  return count > kManyPlots
             ? details(title + " " + muted(fmt::format("{} figures", count)), plots(out))
             : "<h3>" + title + "</h3>\n" + plots(out);
}

}  // namespace

std::string trade_offs(const ReportData& all, FigureList& figures) {
  const std::vector<Place> rows = places(all);
  std::string out = against_accuracy(rows, figures);
  std::vector<std::string> axes = {"model.head_cells", "model.tail_cells", "ensemble.selected",
                                   "ensemble.nets",    "ensemble.sigma",   "ensemble.lambda"};
  for (const Sweep& sweep : all.sweeps) {
    for (const std::string& path : sweep.paths) {
      if (path != "seed" && std::find(axes.begin(), axes.end(), path) == axes.end())
        axes.push_back(path);
    }
  }
  for (const std::string& axis : axes) out += over(rows, axis, figures);
  return section(
      "Trade-offs", out,
      "SSIM of each attack, of its negative where that is better; means over "
      "seeds. Lines join runs that agree in everything but the number below. Bars are the "
      "intervals of the tables: of several seeds the smallest and the largest, of one the "
      "bootstrap 95\u202f% interval over the images.");
}

namespace {

// Attacks whose parts are the points of a curve.
struct AttackCurve {
  const char *attack, *heading, *x, *caption;
};
constexpr AttackCurve kAttackCurves[] = {
    {"known-pairs", "Known pairs", "known pairs m",
     "SSIM of a decoder trained on m pairs of an image and the feature that the client sent for "
     "it."},
    {"repetition", "Repeated sends", "sends m",
     "SSIM of a decoder of the mean over m features that the client sent for the same image."},
    {"coalition", "Coalitions", "shards c",
     "SSIM of a shadow over the server nets of c operators who share what they have."},
};

std::string attack_curve(const ReportData& all, const AttackCurve& kind, FigureList& figures) {
  std::string out;
  for (const Comparison& comparison : all.comparisons) {
    std::vector<Line> lines;  // of the unprotected rows, then of the others
    size_t unprotected = 0;
    for (const SeedGroup& row : comparison.rows) {
      for (const SeedGroupAttack& a : row.attacks) {
        if (a.kind != kind.attack) continue;
        std::map<double, Spread> by_count;  // over seeds
        for (const auto& member : a.members) {
          if (!all.at(member).is_curve()) continue;
          for (const auto& part : all.at(member).result.parts()) {
            if (!part.has_ssim()) continue;
            by_count[part.x()].add(part.ssim());
          }
        }
        if (by_count.size() < 2) continue;
        Line line{row.title, {}};
        for (const auto& [x, ssim] : by_count) line.points.push_back(point(x, ssim.interval()));
        lines.push_back(std::move(line));
        if (!all.first(row).is_protected()) unprotected = lines.size();
      }
    }
    // The unprotected ones in every figure, the others in turn.
    const auto at = [&](size_t i) { return lines.begin() + static_cast<int64_t>(i); };
    const size_t room = kMostLines - std::min(unprotected, kMostLines - 1);
    size_t from = unprotected;
    do {
      const size_t to = std::min(lines.size(), from + room);
      std::vector<Line> some(at(0), at(unprotected));
      some.insert(some.end(), at(from), at(to));
      out += figures.add(std::string(kind.attack) + " " + comparison.title,
                         {comparison.title, kind.x, "SSIM", some, /*dots_only=*/false,
                          /*log_x=*/true});
      from = to;
    } while (from < lines.size());
  }
  return out.empty() ? "" : section(kind.heading, plots(out), kind.caption);
}

}  // namespace

std::string attack_curves(const ReportData& all, FigureList& figures) {
  std::string out;
  for (const AttackCurve& kind : kAttackCurves) out += attack_curve(all, kind, figures);
  return out;
}

std::string training_curves(const ReportData& all, FigureList& figures) {
  std::string out;
  for (const Run& run : all.runs) {
    std::string plotted;
    for (const auto& [key, nets] : run.curves) {
      const auto& [stage, name] = key;
      const bool accuracy = name.find("accuracy") != std::string::npos;
      if (!accuracy && name.find("loss") == std::string::npos &&
          name.find("similarity") == std::string::npos)
        continue;
      std::vector<Line> lines;
      for (const auto& [net, points] : nets) {
        lines.push_back({net, {}});
        for (const auto& [epoch, value] : points)
          lines.back().points.push_back({.x = epoch, .y = accuracy ? value * 100 : value});
      }
      plotted += figures.add("training " + run.name + " " + stage + " " + name,
                             {stage + ": " + name, "epoch", accuracy ? name + ", %" : name, lines});
    }
    if (plotted.empty()) continue;
    std::string title = escape(run.label);
    if (all.comparisons.size() > 1) title += " " + muted(escape(run.setting()));
    out += all.runs.size() > kManyRuns ? details(title, plots(plotted))
                                       : "<h3>" + title + "</h3>\n" + plots(plotted);
  }
  return section("Training", out);
}

}  // namespace ens::report
