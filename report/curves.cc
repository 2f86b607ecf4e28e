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
    if (a.kind == "oracle" || a.metric != "default" || !a.best_ssim) continue;
    if (!best || *a.best_ssim > *best->best_ssim) best = &a;
  }
  return best;
}

// One dot a row: how much an attack gets, against how accurate the protected net is.
std::string against_accuracy(const std::vector<Place>& all) {
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
        if (!a || !a->best_ssim || !p.row->accuracy.has_mean()) continue;
        const std::string protection = p.run->protection_name();
        auto line = std::find_if(lines.begin(), lines.end(),
                                 [&](const Line& l) { return l.name == protection; });
        if (line == lines.end()) line = lines.insert(lines.end(), {protection, {}, {}});
        accuracies.insert(p.row->accuracy.mean());
        line->points.emplace_back(p.row->accuracy.mean() * 100, *a->best_ssim);
        line->labels.push_back(p.row->title + ", " + p.comparison->title + ", " + a->title);
      }
      if (accuracies.size() < 2) continue;
      Figure figure{fmt::format("SSIM against accuracy: {} ({})",
                                oracle ? "oracle" : "strongest attack", name),
                    "accuracy, %"};
      figure.dots_only = true;
      out += plot(figure, lines);
    }
  }
  return out.empty() ? "" : "<h3>Against accuracy</h3>\n" + plots(out);
}

// SSIM of each attack, and the accuracy, of rows that agree in everything but one number.
std::string over(const std::vector<Place>& all, const std::string& path) {
  struct Curve {
    std::string title;
    std::map<std::string, std::map<double, double>> lines;
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
    if (p.row->accuracy.has_mean()) curve.lines["accuracy"][x] = p.row->accuracy.mean();
    for (const SeedGroupAttack& a : p.row->attacks) {
      if (a.best_ssim && a.metric == "default") curve.lines[a.title][x] = *a.best_ssim;
    }
  }
  std::string out;
  size_t count = 0;
  for (const std::string& key : order) {
    const Curve& curve = curves[key];
    if (curve.xs.size() < 2 || curve.lines.size() < 2) continue;
    std::vector<Line> lines;
    for (const auto& [name, points] : curve.lines)
      lines.push_back({name, {points.begin(), points.end()}, {}});
    out += plot({curve.title, path_label(path)}, lines);
    ++count;
  }
  if (out.empty()) return "";
  const std::string title = "Over " + escape(path_label(path));
  return count > kManyPlots
             ? details(title + " " + muted(fmt::format("{} figures", count)), plots(out))
             : "<h3>" + title + "</h3>\n" + plots(out);
}

}  // namespace

std::string trade_offs(const ReportData& all) {
  const std::vector<Place> rows = places(all);
  std::string out = against_accuracy(rows);
  std::vector<std::string> axes = {"model.head_cells", "model.tail_cells", "ensemble.selected",
                                   "ensemble.nets",    "ensemble.sigma",   "ensemble.lambda"};
  for (const Sweep& sweep : all.sweeps) {
    for (const std::string& path : sweep.paths) {
      if (path != "seed" && std::find(axes.begin(), axes.end(), path) == axes.end())
        axes.push_back(path);
    }
  }
  for (const std::string& axis : axes) out += over(rows, axis);
  return section("Trade-offs", out,
                 "SSIM of each attack, of its negative where that is better; means over "
                 "seeds. Lines join runs that agree in everything but the number below.");
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

std::string attack_curve(const ReportData& all, const AttackCurve& kind) {
  std::string out;
  for (const Comparison& comparison : all.comparisons) {
    std::vector<Line> lines;  // of the unprotected rows, then of the others
    size_t unprotected = 0;
    for (const SeedGroup& row : comparison.rows) {
      for (const SeedGroupAttack& a : row.attacks) {
        if (a.kind != kind.attack) continue;
        std::map<double, std::pair<double, int>> sums;  // over seeds
        for (const auto& member : a.members) {
          if (!all.at(member).is_curve()) continue;
          for (const auto& part : all.at(member).result.parts()) {
            if (!part.has_ssim()) continue;
            auto& [sum, count] = sums[part.x()];
            sum += part.ssim();
            ++count;
          }
        }
        if (sums.size() < 2) continue;
        Line line{row.title, {}, {}};
        for (const auto& [x, sum] : sums) line.points.emplace_back(x, sum.first / sum.second);
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
      Figure figure{comparison.title, kind.x};
      figure.log_x = true;
      out += plot(figure, some);
      from = to;
    } while (from < lines.size());
  }
  return out.empty() ? "" : section(kind.heading, plots(out), kind.caption);
}

}  // namespace

std::string attack_curves(const ReportData& all) {
  std::string out;
  for (const AttackCurve& kind : kAttackCurves) out += attack_curve(all, kind);
  return out;
}

std::string training_curves(const ReportData& all) {
  std::string out;
  for (const Run& run : all.runs) {
    std::string figures;
    for (const auto& [key, nets] : run.curves) {
      const auto& [stage, name] = key;
      const bool accuracy = name.find("accuracy") != std::string::npos;
      if (!accuracy && name.find("loss") == std::string::npos &&
          name.find("similarity") == std::string::npos)
        continue;
      std::vector<Line> lines;
      for (const auto& [net, points] : nets)
        lines.push_back({net, {points.begin(), points.end()}, {}});
      Figure figure{stage + ": " + name + (accuracy ? ", %" : ""), "epoch"};
      figure.y_factor = accuracy ? 100 : 1;
      figures += plot(figure, lines);
    }
    if (figures.empty()) continue;
    std::string title = escape(run.label);
    if (all.comparisons.size() > 1) title += " " + muted(escape(run.setting()));
    out += all.runs.size() > kManyRuns ? details(title, plots(figures))
                                       : "<h3>" + title + "</h3>\n" + plots(figures);
  }
  return section("Training", out);
}

}  // namespace ens::report
