// SPDX-License-Identifier: Apache-2.0
// Images: what the attacks reconstructed, next to the originals, and over split points.
#include <fmt/format.h>

#include <algorithm>

#include "report/html.h"
#include "report/sections.h"

namespace ens::report {
namespace {

constexpr size_t kBudget = 12 << 20;  // bytes of PNG
constexpr int kTogether = 8;          // images of a strip that stay on one line
constexpr int kWidest = 1024;         // pixels of a strip

// The first run of the row that has images of this attack; -1 if none has.
std::pair<int, int> pictured(const ReportData& all, const SeedGroupAttack& attack) {
  for (const auto& member : attack.members) {
    if (all.at(member).has_pictures()) return member;
  }
  return {-1, -1};
}

std::string score_of(const Attack& a) {
  std::string score = "SSIM " + fixed(a.below_floor.value_or(a.ssim()), kSsim);  // of the images
  if (a.result.negative().better())
    score += ", negative " + format(number(a.result, "negative.ssim"), 3);
  return score;
}

}  // namespace

Album::Album(const ReportData& all) {
  size_t spent = 0;
  std::set<std::string> counted;
  const auto show = [&](std::pair<int, int> member, bool first_choice) {
    if (member.first < 0 || shown_.count(member)) return;
    const Attack& a = all.at(member);
    if (spent + a.reconstruction_png.size() > (first_choice ? 2 * kBudget : kBudget)) {
      ++left_out_;
      return;
    }
    for (const std::string* png : {&a.original_png, &a.reconstruction_png}) {
      if (counted.insert(*png).second) spent += png->size();
    }
    shown_.insert(member);
  };
  for (const bool first_choice : {true, false}) {
    for (const Comparison& comparison : all.comparisons) {
      for (const SeedGroup& row : comparison.rows) {
        const Attack* best = strongest(all.first(row));
        for (const SeedGroupAttack& a : row.attacks) {
          const bool wanted = a.kind == "oracle" || (best && a.folder == best->folder);
          if (wanted == first_choice) show(pictured(all, a), first_choice);
        }
      }
    }
  }
}

int Album::id(const std::string& png) {
  return ids_.try_emplace(png, static_cast<int>(ids_.size())).first->second;
}

std::string Album::strip(const std::string& png, const std::string& label) {
  const auto [width, height] = png_size(png);
  const int count = std::max(1, width / std::max(1, height));  // the images are square
  std::string out;
  for (int first = 0; first < count; first += kTogether) {
    const int here = std::min(kTogether, count - first);
    // Percentages of a background count from where it leaves no room to where all room is left.
    const double at = count > here ? 100.0 * first / (count - here) : 0;
    out += fmt::format(
        "<div class=\"px p{}\" style=\"width:{}px;aspect-ratio:{}/1;background-size:{:.4g}% 100%;"
        "background-position:{:.4g}% 0\"></div>",
        id(png), std::min(2 * width, kWidest) * here / count, here, 100.0 * count / here, at);
  }
  return fmt::format("<div class=\"tiles\" role=\"img\" aria-label=\"{}\">{}</div>", escape(label),
                     out);
}

std::string Album::first(const std::string& png, int count, int side, const std::string& label) {
  const auto [width, height] = png_size(png);
  const int all = std::max(1, width / std::max(1, height));  // the images are square
  return fmt::format(
      "<div class=\"px crop p{}\" role=\"img\" aria-label=\"{}\" "
      "style=\"width:{}px;height:{}px;background-size:{}px {}px\"></div>",
      id(png), escape(label), side * std::min(count, all), side, side * all, side);
}

std::string Album::style() const {
  std::string css;
  for (const auto& [png, id] : ids_) {
    css += fmt::format(".p{}{{background-image:url(data:image/png;base64,{})}}\n", id, base64(png));
  }
  return css;
}

std::string split_grids(const ReportData& all, Album& album) {
  // Rows that differ in their split alone.
  struct Grid {
    std::string title;
    std::map<std::pair<double, double>, const SeedGroup*> rows;  // by (h, t)
  };
  std::map<std::string, Grid> grids;
  std::vector<std::string> order;
  for (const Comparison& comparison : all.comparisons) {
    for (const SeedGroup& row : comparison.rows) {
      const Run& run = all.first(row);
      const Maybe h = run.get("split.head"), t = run.get("split.tail");
      if (!h || !t) continue;
      const std::string key = identity(run, {"model.head_cells", "model.tail_cells"});
      if (!grids.count(key)) order.push_back(key);
      Grid& grid = grids[key];
      grid.title = escape(row.title) + " " +
                   muted(escape(run.summary.data() + ", " + run.summary.architecture()));
      grid.rows[{*h, *t}] = &row;
    }
  }
  std::string out;
  for (const std::string& key : order) {
    const Grid& grid = grids[key];
    if (grid.rows.size() < 2) continue;
    std::set<double> heads, tails;
    std::vector<std::pair<std::string, std::string>> kinds;  // attack folder and title
    std::map<std::string, int> cells, wins;  // images of the attack; how often the strongest
    for (const auto& [split, row] : grid.rows) {
      heads.insert(split.first), tails.insert(split.second);
      if (const Attack* best = strongest(all.first(*row))) ++wins[best->folder];
      for (const SeedGroupAttack& a : row->attacks) {
        if (!album.has(pictured(all, a))) continue;
        if (++cells[a.folder] == 1) kinds.emplace_back(a.folder, a.title);
      }
    }
    std::erase_if(kinds, [&](const auto& kind) { return cells[kind.first] < 2; });
    if (kinds.empty()) continue;
    const auto favourite = std::max_element(
        wins.begin(), wins.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    const int count = tails.size() <= 6 ? 2 : 1;
    out += "<h3>" + grid.title + "</h3>\n";
    for (const auto& [folder, title] : kinds) {
      std::vector<Cell> head = {left("h \\ t")};
      for (const double t : tails) head.push_back(left(fmt::format("t = {}", t)));
      Table table(head, "splits");
      std::string original;
      for (const double h : heads) {
        std::vector<Cell> line = {left(fmt::format("h = {}", h))};
        for (const double t : tails) {
          const auto row = grid.rows.find({h, t});
          std::string html = muted("\u2013");
          if (row != grid.rows.end()) {
            for (const SeedGroupAttack& a : row->second->attacks) {
              const auto member = pictured(all, a);
              if (a.folder != folder || !album.has(member)) continue;
              const Attack& attack = all.at(member);
              if (original.empty()) original = attack.original_png;
              html = album.first(attack.reconstruction_png, count, 64,
                                 fmt::format("reconstruction, h = {}, t = {}", h, t)) +
                     "<br>" + muted(score_of(attack));
            }
          }
          line.push_back(left(html));
        }
        table.add(line);
      }
      const std::string body = "<div class=\"wide\"><div class=\"muted\">Original " +
                               album.first(original, count, 64, "originals") + "</div>" +
                               table.str() + "</div>\n";
      const bool open =
          folder == "oracle" || (favourite != wins.end() && folder == favourite->first);
      out += open ? "<h4>" + escape(title) + "</h4>\n" + body : details(escape(title), body);
    }
  }
  return section("Reconstructions over split points", out,
                 "First split h down, second split t across, as in figures 2 and 3 of arXiv "
                 "2401.10859. Always the same images.");
}

std::string pictures(const ReportData& all, Album& album) {
  struct Strip {
    const Comparison* comparison;
    const SeedGroup* row;
    const Attack* attack;
  };
  std::vector<std::pair<std::string, std::vector<Strip>>> groups;  // same originals, one block
  for (const Comparison& comparison : all.comparisons) {
    for (const SeedGroup& row : comparison.rows) {
      for (const SeedGroupAttack& a : row.attacks) {
        const auto member = pictured(all, a);
        if (!album.has(member)) continue;
        const Attack& attack = all.at(member);
        auto group = std::find_if(groups.begin(), groups.end(),
                                  [&](const auto& g) { return g.first == attack.original_png; });
        if (group == groups.end()) group = groups.insert(groups.end(), {attack.original_png, {}});
        group->second.push_back({&comparison, &row, &attack});
      }
    }
  }
  const bool fold = all.runs.size() > kManyRuns;
  const auto strip = [&](const std::string& caption, const std::string& png,
                         const std::string& label, const char* kind) {
    return fmt::format("<div class=\"strip {}\"><div class=\"caption\">{}</div>{}</div>\n", kind,
                       caption, album.strip(png, label));
  };
  std::string out;
  for (const auto& [original, strips] : groups) {
    out += "<div class=\"strips\">\n";
    const std::string originals = strip("<b>Originals</b>", original, "originals", "original");
    if (!fold) out += originals;
    for (size_t i = 0; i < strips.size();) {
      const Strip& first = strips[i];
      std::string rows;
      for (; i < strips.size() && strips[i].row == first.row; ++i) {
        const Attack& a = *strips[i].attack;
        rows += strip(escape(a.result.title()) + "<br>" + muted(score_of(a)), a.reconstruction_png,
                      "reconstructions, " + a.result.title(), "");
      }
      std::string title = escape(first.row->title);
      if (all.comparisons.size() > 1) title += " " + muted(escape(first.comparison->title));
      out += fold ? details(title, originals + rows) : "<h3>" + title + "</h3>\n" + rows;
    }
    out += "</div>\n";
  }
  if (album.left_out() > 0) {
    out += fmt::format(
        "<p class=\"muted\">To keep this file small, {} strips of images are left out; those of "
        "the oracle and of each row\u2019s strongest attack come first. All are in the run "
        "folders, "
        "as attack/NAME/reconstruction.png.</p>\n",
        album.left_out());
  }
  return section(
      "Images", out,
      "Private test images on top; beneath, what each attack reconstructed from the features "
      "that the client sent. Same image, same column. Of several seeds the first.");
}

}  // namespace ens::report
