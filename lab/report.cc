#include "lab/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "lab/report_data.h"
#include "lab/report_html.h"
#include "nn/core/error.h"
#include "nn/io/atomic_file.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using namespace ens::report;
using nlohmann::json;

constexpr double kClose = 0.05;  // SSIM this near to the oracle counts as having reached it

// The run's name, with its folder where several runs have the same.
std::string run_name(const Collection& all, const Run& run) {
  const bool same = std::count_if(all.runs.begin(), all.runs.end(),
                                  [&](const Run& r) { return r.title() == run.title(); }) > 1;
  return escape(run.title()) + (same ? " " + muted(escape(run.name)) : "");
}

// The run that the page is about: protected if there is one, and attacked if there is one.
const Run& main_run(const Collection& all) {
  const auto rank = [](const Run& r) {
    return (r.protection == "ensembler" ? 4 : r.protection != "none" ? 2 : 0) + !r.attacks.empty();
  };
  return *std::max_element(all.runs.begin(), all.runs.end(),
                           [&](const Run& a, const Run& b) { return rank(a) < rank(b); });
}

const Attack* strongest(const Run& run) {  // of those who do not know the client's true features
  const Attack* best = nullptr;
  for (const Attack& a : run.attacks) {
    if (a.is_oracle() || !a.best_ssim()) continue;
    if (!best || *a.best_ssim() > *best->best_ssim()) best = &a;
  }
  return best;
}

// What the numbers of one run say, and what they do not.
std::string verdict(const Collection& all, const Run& run) {
  std::string out = "<p><b>" + run_name(all, run) + ".</b> ";
  const Run* none = run.baseline >= 0 ? &all.runs[run.baseline] : nullptr;
  if (run.protection != "none" && run.accuracy_change) {
    out += fmt::format("Accuracy {} against {} without protection ({}). ", percent(run.accuracy),
                       percent(none->accuracy), points(run.accuracy_change));
  } else if (run.accuracy) {
    out += fmt::format("Accuracy {}. ", percent(run.accuracy));
  }
  const Attack* oracle = run.attack("oracle");
  if (oracle) {
    out += fmt::format(
        "At most, a decoder trained on the client\u2019s true features (the oracle) rebuilds "
        "the pictures with SSIM {}",
        fixed(oracle->ssim->mean, 3));
    const Attack* open = none && none != &run ? none->attack("oracle") : nullptr;
    if (open) {
      out += fmt::format(" ({} without protection, a difference of {})", fixed(open->ssim->mean, 3),
                         fixed(oracle->ssim->mean - open->ssim->mean, 3, true));
    }
    out += ". ";
  } else if (!run.attacks.empty()) {
    out += "The oracle was not measured, so it is not known how much the features hold at most. ";
  }
  const Attack* best = strongest(run);
  if (best) {
    out += fmt::format("The strongest attack here, {}, reached {}{}", quoted(best->title),
                       fixed(*best->best_ssim(), 3),
                       *best->best_ssim() > best->ssim->mean ? " as a luminance negative" : "");
    if (oracle) {
      const bool reached = *best->best_ssim() >= oracle->ssim->mean - kClose;
      out += reached ? fmt::format(", within {} of the oracle or above: ", kClose)
                     : fmt::format(" and stayed more than {} below the oracle: ", kClose);
      if (reached) {
        out += run.protection == "none" ? "as expected with nothing to stop it"
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
      return !a.is_oracle() && a.best_ssim() && test(a);
    });
  };
  const auto attacks = count([](const Attack&) { return true; });
  // An attack that came near the oracle here has proved itself.
  const auto weak = count([&](const Attack& a) {
    return a.weak() && !(oracle && *a.best_ssim() >= oracle->ssim->mean - kClose);
  });
  const auto unknown = count([](const Attack& a) { return !a.strength; });
  if (weak > 0) {
    out += fmt::format(
        "Weak attackers: {} of {}. They fall short of 80\u202f% of the oracle even against no "
        "protection, so their low numbers say little about how safe the pictures are. ",
        weak, attacks);
  }
  if (unknown > 0) {
    out += fmt::format("{} of {} attacks were not calibrated against an unprotected run. ", unknown,
                       attacks);
  }
  return out + "</p>\n";
}

std::string headline(const Collection& all) {
  const Run& run = main_run(all);
  std::string cards;
  const auto card = [&](const std::string& label, const std::string& value,
                        const std::string& note) {
    cards += fmt::format(
        "<div class=\"card\"><div class=\"label\">{}</div><div class=\"value\">{}</div>"
        "<div class=\"muted\">{}</div></div>\n",
        label, value, note);
  };
  if (run.accuracy) {
    card("Test accuracy", percent(run.accuracy),
         run.protection != "none" && run.accuracy_change
             ? points(run.accuracy_change) + " against no protection"
         : run.protection == "none" ? "no protection"
                                    : "no unprotected run to compare");
  }
  if (const Attack* best = strongest(run)) {
    card("Strongest attack, SSIM", fixed(*best->best_ssim(), 3), escape(best->title));
  }
  if (const Attack* oracle = run.attack("oracle")) {
    card("Leaks at most, SSIM", fixed(oracle->ssim->mean, 3), "oracle decoder");
  }
  if (const auto total = run.latency.find("total");
      total != run.latency.end() && total->second.p50) {
    card("Latency, p50", show(total->second.p50, 1, " ms"),
         "p95 " + show(total->second.p95, 1, " ms"));
  }
  Number up = run.bytes_up, down = run.bytes_down;
  if (run.serve.is_object() && run.serve.contains("bytes_sent")) {
    up = run.serve.value("bytes_sent", 0.0), down = run.serve.value("bytes_received", 0.0);
  }
  if (up) card("On the wire, per image", bytes(up) + " up", bytes(down) + " down");

  const auto joined = [&](auto&& field) {  // the different values over all runs
    std::string out;
    std::set<std::string> seen;
    for (const Run& r : all.runs) {
      const std::string value = field(r);
      if (!value.empty() && seen.insert(value).second)
        out += (out.empty() ? "" : "<br>") + escape(value);
    }
    return out;
  };
  std::string facts;
  const auto fact = [&](const char* label, const std::string& html) {
    if (!html.empty()) facts += fmt::format("<dt>{}</dt><dd>{}</dd>\n", label, html);
  };
  fact("Data and model", joined([](const Run& r) { return r.setting(); }));
  fact("Machine", joined([](const Run& r) {
         return r.processor + (r.processor.empty() || r.device.empty() ? "" : ", ") + r.device;
       }));
  fact("Version", joined([](const Run& r) {
         return r.version + (r.revision.empty() ? "" : " (revision " + r.revision + ")");
       }));
  fact("Runs", joined([](const Run& r) {
         return r.title() + (r.seed ? fmt::format(", seed {}", *r.seed) : "") +
                (r.started.empty() ? "" : ", started " + r.started);
       }));
  fact("Commands", joined([](const Run& r) { return r.command; }));
  return "<div class=\"cards\">" + cards + "</div>\n<dl>" + facts + "</dl>\n";
}

std::string findings(const Collection& all) {
  std::string out;
  for (const Run& run : all.runs) out += verdict(all, run);
  std::map<std::string, std::set<double>> seeds;
  for (const Run& run : all.runs) seeds[run.setting() + run.title()].insert(run.seed.value_or(0));
  if (std::any_of(seeds.begin(), seeds.end(), [](const auto& s) { return s.second.size() < 3; })) {
    out +=
        "<p class=\"muted\">Fewer than three training seeds each: the intervals cover the choice "
        "of test "
        "pictures, not the luck of training.</p>\n";
  }
  return section("What the numbers say", out);
}

std::string accuracy_table(const Collection& all) {
  const bool one_setting =  // which the page's subtitle names
      std::all_of(all.runs.begin(), all.runs.end(),
                  [&](const Run& r) { return r.setting() == all.runs[0].setting(); });
  Table table({left("Protection"), right("Accuracy"), right("Change"), right("Single nets"),
               right("Similarity reached"), right("\u03c3"), right("\u03bb"), right("Edge FLOPs"),
               right("Cloud FLOPs"), right("Training")});
  for (const Run& run : all.runs) {
    std::string nets = "\u2013", time;
    if (!run.net_accuracy.empty()) {
      const auto [low, high] =
          std::minmax_element(run.net_accuracy.begin(), run.net_accuracy.end());
      nets = percent(*low);
      if (*low != *high) nets = fixed(*low * 100, 1) + " to " + percent(*high);
    }
    for (const auto& [stage, seconds] : run.seconds) {
      time += (time.empty() ? "" : "<br>") + escape(stage) + " " + duration(seconds);
    }
    const std::string images =
        run.test_images ? "<br>" + muted(fmt::format("{} images", *run.test_images)) : "";
    table.add(
        {left(run_name(all, run) + (one_setting ? "" : "<br>" + muted(escape(run.setting())))),
         right(percent(run.accuracy) + images),
         right(run.protection == "none" ? "\u2013" : points(run.accuracy_change)), right(nets),
         right(show(run.similarity, 3)), right(plain(run.sigma)), right(plain(run.lambda)),
         right(flops(run.edge_flops)), right(flops(run.cloud_flops)), right(time)});
  }
  return section(
      "Accuracy", table.str(),
      "Change: against the unprotected run with the same data, model and split. Similarity: the "
      "largest "
      "mean cosine similarity between the client\u2019s features and those of a selected net.");
}

std::string strength_cell(const Attack& a) {
  if (a.is_oracle()) return badge("bound", "upper bound");
  if (!a.strength) return badge("plain", "not calibrated");
  const std::string by =
      a.calibrated_by.empty() ? "" : "<br>" + muted("as " + quoted(a.calibrated_by));
  return "<span class=\"nowrap\">" +
         (a.weak() ? badge("weak", "weak attacker") : badge("strong", "strong enough")) + " " +
         percent(a.strength, 0) + "</span>" + by;
}

std::string attack_notes(const Attack& a) {
  std::vector<std::string> notes;
  if (a.best_of > 1) {
    notes.push_back(fmt::format("best of {}{}", a.best_of,
                                a.chosen_by.empty() ? "" : ", chosen by " + escape(a.chosen_by)));
  }
  const auto best =
      std::max_element(a.parts.begin(), a.parts.end(), [](const Part& x, const Part& y) {
        return x.score.psnr.value_or(-1) < y.score.psnr.value_or(-1);
      });
  if (a.parts.size() > 1 && best->score.psnr) {
    notes.push_back(
        fmt::format("best PSNR {} dB: {}", fixed(*best->score.psnr, 2), escape(best->name)));
  }
  if (a.negative_better) {
    notes.push_back(
        fmt::format("<strong>the luminance negative is better</strong>: SSIM {}, PSNR {}",
                    show(a.negative.ssim, 3), show(a.negative.psnr, 2)));
  }
  if (a.shadow_accuracy) notes.push_back("shadow accuracy " + percent(a.shadow_accuracy));
  if (a.scored_images > 0) notes.push_back(fmt::format("{} pictures", a.scored_images));
  if (a.seconds) notes.push_back(duration(*a.seconds));
  std::string out;
  for (const std::string& note : notes) out += (out.empty() ? "" : "; ") + note;
  return out;
}

std::string attack_table(const Collection& all) {
  Table table({left("Attack"), right("SSIM"), right("PSNR, dB"), left("Share of the oracle"),
               right("On own features"), left("Against no protection"), left("Notes")});
  std::string parts;
  bool any = false;
  for (const Run& run : all.runs) {
    if (run.attacks.empty()) continue;
    any = true;
    table.band(run_name(all, run) + " " +
               muted(fmt::format("{}; accuracy {}{}", escape(run.setting()), percent(run.accuracy),
                                 run.protection != "none" && run.accuracy_change
                                     ? ", " + points(run.accuracy_change)
                                     : "")));
    for (const Attack& a : run.attacks) {
      const std::string name =
          escape(a.title) + (a.level.empty() ? "" : "<br>" + muted(escape(a.level)));
      if (!a.error.empty()) {
        table.add({left(name), right("\u2013"), right("\u2013"), left("\u2013"), right("\u2013"),
                   left("\u2013"), left("<strong>failed</strong>: " + escape(a.error))});
        continue;
      }
      const std::string meter =
          a.of_oracle ? fmt::format(
                            "<span class=\"nowrap\"><span class=\"meter\"><i "
                            "style=\"width:{:.0f}%\"></i></span> {}</span>",
                            std::clamp(*a.of_oracle, 0.0, 1.0) * 100, percent(a.of_oracle, 0))
                      : "\u2013";
      const std::string own = a.own.ssim || a.own.psnr
                                  ? show(a.own.ssim, 3) + "<br>" + muted(show(a.own.psnr, 2, " dB"))
                                  : "\u2013";
      table.add({left(name), right(with_interval(a.ssim, 3)), right(with_interval(a.psnr, 2)),
                 left(meter), right(own), left(strength_cell(a)), left(muted(attack_notes(a)))});
      if (a.parts.size() > 1) {
        Table list({left("Part"), right("SSIM"), right("PSNR, dB")});
        for (const Part& part : a.parts) {
          list.add({left(escape(part.name)), right(show(part.score.ssim, 3)),
                    right(show(part.score.psnr, 2))});
        }
        parts += "<details><summary>" + run_name(all, run) + ": " + escape(a.title) + ", all " +
                 std::to_string(a.parts.size()) + " parts</summary>" + list.str() + "</details>\n";
      }
    }
  }
  if (!any) return "";
  return section("Attacks", table.str() + parts,
                 "Lower is better protected; ranges are bootstrap 95\u202f% intervals over the "
                 "pictures. The oracle is "
                 "a decoder trained on the client\u2019s true features: what leaks at the very "
                 "most. \u201cOn own "
                 "features\u201d scores the decoder on the attacker\u2019s own shadow, where it "
                 "should be good. An attack "
                 "that does not reach 80\u202f% of the oracle\u2019s SSIM against no protection at "
                 "the same split is "
                 "marked as a weak attacker: its numbers flatter any protection.");
}

std::string pictures(const Collection& all) {
  struct Row {
    const Run* run;
    const Attack* attack;
  };
  std::vector<std::pair<std::string, std::vector<Row>>> groups;  // same originals, one block
  for (const Run& run : all.runs) {
    for (const Attack& a : run.attacks) {
      if (a.original_png.empty() || a.reconstruction_png.empty()) continue;
      auto group = std::find_if(groups.begin(), groups.end(),
                                [&](const auto& g) { return g.first == a.original_png; });
      if (group == groups.end()) group = groups.insert(groups.end(), {a.original_png, {}});
      group->second.push_back({&run, &a});
    }
  }
  std::string out;
  for (const auto& [original, rows] : groups) {
    const int width = std::min(2 * png_width(original), 1024);
    const auto strip = [&](const std::string& caption, const std::string& png, const char* kind) {
      out += fmt::format(
          "<div class=\"strip {}\"><div class=\"caption\">{}</div><img alt=\"\" "
          "style=\"width:{}px\" "
          "src=\"data:image/png;base64,{}\"></div>\n",
          kind, caption, width, base64(png));
    };
    out += "<div class=\"strips\">\n";
    strip("<b>Originals</b>", original, "original");
    const Run* last = nullptr;
    for (const Row& row : rows) {
      if (row.run != last) out += "<h3>" + run_name(all, *row.run) + "</h3>\n";
      last = row.run;
      const Number ssim = row.attack->ssim ? Number(row.attack->ssim->mean) : Number();
      std::string score = "SSIM " + show(ssim, 3);
      if (row.attack->negative_better) {
        score += ", negative " + show(row.attack->negative.ssim, 3);
      }
      strip(escape(row.attack->title) + "<br>" + muted(score), row.attack->reconstruction_png, "");
    }
    out += "</div>\n";
  }
  return section("Pictures", out,
                 "Private test images on top; beneath, what each attack rebuilt from the features "
                 "that the client "
                 "sent. Same picture, same column.");
}

constexpr std::pair<const char*, const char*> kLatency[] = {{"head", "edge: head"},
                                                            {"wire", "wire"},
                                                            {"cloud_queue", "cloud: queue"},
                                                            {"cloud_compute", "cloud: compute"},
                                                            {"tail", "edge: tail"}};

std::string latency(const Collection& all) {
  std::vector<const Run*> served;
  double longest = 0;
  for (const Run& run : all.runs) {
    if (!run.serve.is_object()) continue;
    served.push_back(&run);
    double sum = 0;
    for (const auto& [key, label] : kLatency) {
      if (run.latency.count(key)) sum += run.latency.at(key).p50.value_or(0);
    }
    longest = std::max(longest, sum);
  }
  if (served.empty()) return "";
  std::string bars, legend;
  for (size_t i = 0; i < std::size(kLatency); ++i) legend += legend_item(i, kLatency[i].second);
  Table table({left("Protection"), right("Images"), right("Accuracy served"), right("Head"),
               right("Wire"), right("Queue"), right("Compute"), right("Tail"), right("Total"),
               right("Sent"), right("Received")});
  for (const Run* run : served) {
    const json& s = run->serve;
    std::string svg =
        "<svg class=\"bar\" viewBox=\"0 0 1000 26\" preserveAspectRatio=\"none\" role=\"img\" "
        "aria-label=\"latency by part\">";
    double x = 0, total = 0;
    for (size_t i = 0; i < std::size(kLatency) && longest > 0; ++i) {
      const auto part = run->latency.find(kLatency[i].first);
      if (part == run->latency.end() || !part->second.p50) continue;
      const double width = *part->second.p50 / longest * 1000;
      svg += fmt::format(
          "<rect class=\"c{}\" x=\"{:.1f}\" y=\"0\" width=\"{:.1f}\" height=\"26\"><title>{} {} "
          "ms</title>"
          "</rect>",
          i, x, width, kLatency[i].second, fixed(*part->second.p50, 2));
      x += width;
      total += *part->second.p50;
    }
    bars += "<div class=\"barline\"><div>" + run_name(all, *run) + "</div>" + svg +
            "</svg><div class=\"num\">" + fixed(total, 1) + " ms</div></div>\n";
    const auto cell = [&](const char* key) {
      const auto it = run->latency.find(key);
      if (it == run->latency.end()) return right("\u2013");
      return right(show(it->second.p50, 2) + "<br>" + muted(show(it->second.p95, 2)));
    };
    const auto value = [&](const char* key) {
      return s.contains(key) && s[key].is_number() ? Number(s[key].get<double>()) : Number();
    };
    const bool known = s.contains("curve") && s["curve"].is_boolean();
    const std::string wire =
        known ? (s["curve"].get<bool>() ? "encrypted (CURVE)" : "plain text, loopback") : "";
    const std::string batch =
        value("batch") ? fmt::format("{}batch {}", wire.empty() ? "" : ", ", *value("batch")) : "";
    table.add({left(run_name(all, *run) + "<br>" + muted(wire + batch)),
               right(plain(value("images"))), right(percent(value("accuracy"))), cell("head"),
               cell("wire"), cell("cloud_queue"), cell("cloud_compute"), cell("tail"),
               cell("total"), right(bytes(value("bytes_sent"))),
               right(bytes(value("bytes_received")))});
  }
  return section("Latency and bytes",
                 bars + "<div class=\"legend\">" + legend + "</div>\n" + table.str(),
                 "Milliseconds per request: the median, and the 95th percentile beneath. The bars "
                 "add the medians of "
                 "the parts, which need not be the median of the whole. Bytes are per image.");
}

std::string training_curves(const Collection& all) {
  std::string out;
  for (const Run& run : all.runs) {
    std::string plots;
    for (const auto& [key, nets] : run.curves) {
      const auto& [stage, name] = key;
      const bool accuracy = name.find("accuracy") != std::string::npos;
      if (!accuracy && name.find("loss") == std::string::npos &&
          name.find("similarity") == std::string::npos)
        continue;
      std::vector<Line> lines;
      for (const auto& [net, points] : nets) lines.push_back({net, {points.begin(), points.end()}});
      plots += plot(stage + ": " + name + (accuracy ? ", %" : ""), "epoch", lines, false,
                    accuracy ? 100 : 1);
    }
    if (!plots.empty())
      out += "<h3>" + run_name(all, run) + "</h3><div class=\"plots\">" + plots + "</div>\n";
  }
  return section("Training", out);
}

// SSIM against accuracy over all runs of a setting, and against whatever else differs between runs.
std::string trade_offs(const Collection& all) {
  const std::pair<const char*, Number Run::*> axes[] = {{"split h", &Run::head},
                                                        {"nets N", &Run::nets},
                                                        {"selected P", &Run::selected},
                                                        {"\u03bb", &Run::lambda},
                                                        {"\u03c3", &Run::sigma}};
  std::string out;
  std::map<std::string, Line> dots;
  std::set<double> accuracies;
  for (const Run& run : all.runs) {
    for (const Attack& a : run.attacks) {
      if (!a.best_ssim() || !run.accuracy) continue;
      accuracies.insert(*run.accuracy);
      const std::string name =
          run.setting() == all.runs[0].setting() ? a.title : a.title + " (" + run.setting() + ")";
      Line& line = dots[name];
      line.name = name;
      line.points.push_back({*run.accuracy * 100, *a.best_ssim()});
    }
  }
  const auto values = [](const auto& lines) {
    std::vector<Line> list;
    for (const auto& [key, line] : lines) list.push_back(line);
    return list;
  };
  if (accuracies.size() > 1)
    out += plot("SSIM against accuracy (each dot one run)", "accuracy, %", values(dots), true);
  for (const auto& [label, field] : axes) {
    // Lines join runs that agree in everything but this one number.
    std::map<std::string, std::map<double, double>> curves;
    for (const Run& run : all.runs) {
      if (!(run.*field)) continue;
      std::string rest = run.protection + run.data + run.architecture + plain(run.width) +
                         plain(run.tail) + plain(run.seed);
      for (const auto& [other_label, other] : axes) {
        if (other != field) rest.append("/").append(plain(run.*other));
      }
      for (const Attack& a : run.attacks) {
        if (a.best_ssim()) curves[a.title + "\n" + rest][*(run.*field)] = *a.best_ssim();
      }
    }
    std::vector<Line> lines;
    for (const auto& [key, points] : curves) {
      if (points.size() > 1)
        lines.push_back({key.substr(0, key.find('\n')), {points.begin(), points.end()}});
    }
    if (!lines.empty()) out += plot(std::string("SSIM over ") + label, label, lines);
  }
  return out.empty() ? "" : section("Trade-offs", "<div class=\"plots\">" + out + "</div>");
}

// Table 1 to 3 of arXiv 2401.10859, as far as this lab has the same protection and attack.
struct Published {
  const char *data, *row, *protection, *attack;
  double change, ssim, psnr;  // points of accuracy, SSIM, dB
};
constexpr Published kPublished[] = {
    {"cifar10", "NONE", "none", "shadow-n1", 0.00, 0.4363, 12.2678},
    {"cifar10", "Single", "single", "shadow-n1", 2.15, 0.3921, 7.5266},
    {"cifar10", "Ensembler, adaptive", "ensembler", "shadow-adaptive", -2.13, 0.0555, 5.9810},
    {"cifar10", "Ensembler, N=1, best SSIM", "ensembler", "shadow-n1", -2.13, 0.2889, 4.8650},
    {"cifar10", "Ensembler, N=1, best PSNR", "ensembler", "shadow-n1", -2.13, 0.2221, 5.5348},
    {"cifar100", "Single", "single", "shadow-n1", -0.97, 0.4558, 8.5225},
    {"cifar100", "Ensembler, adaptive", "ensembler", "shadow-adaptive", 0.31, 0.0864, 4.7715},
    {"cifar100", "Ensembler, N=1", "ensembler", "shadow-n1", 0.31, 0.2636, 5.0741},
};

Score published_counterpart(const Published& row, const Attack& a) {
  const bool by_psnr = std::string(row.row).find("best PSNR") != std::string::npos;
  Score best{a.ssim->mean, a.psnr ? Number(a.psnr->mean) : Number()};
  for (const Part& part : a.parts) {
    if (by_psnr && part.score.psnr.value_or(-1) > best.psnr.value_or(-1)) best = part.score;
  }
  return best;
}

std::string published(const Collection& all) {
  Table table({left("Published row"), right("\u0394 accuracy"), right("SSIM"), right("PSNR"),
               left("Our run"), right("\u0394 accuracy"), right("SSIM"), right("PSNR"),
               right("SSIM, ours \u2212 theirs"), right("PSNR, ours \u2212 theirs")});
  std::string band;
  bool any = false;
  for (const Published& row : kPublished) {
    const bool ours = std::any_of(all.runs.begin(), all.runs.end(),
                                  [&](const Run& r) { return r.data == row.data; });
    if (!ours) continue;
    any = true;
    if (band != row.data) table.band(band = row.data);
    bool matched = false;
    for (const Run& run : all.runs) {
      const Attack* a = run.attack(row.attack);
      if (run.data != row.data || run.protection != row.protection || !a) continue;
      matched = true;
      const Score score = published_counterpart(row, *a);
      const auto difference = [](const Number& x, double y) {
        return x ? Number(*x - y) : Number();
      };
      table.add({left(row.row), right(fixed(row.change, 2, true)), right(fixed(row.ssim, 4)),
                 right(fixed(row.psnr, 2)), left(run_name(all, run)),
                 right(run.accuracy_change ? fixed(*run.accuracy_change * 100, 2, true) : "\u2013"),
                 right(show(score.ssim, 4)), right(show(score.psnr, 2)),
                 right(show(difference(score.ssim, row.ssim), 3, "", true)),
                 right(show(difference(score.psnr, row.psnr), 2, "", true))});
    }
    if (!matched) {
      table.add({left(row.row), right(fixed(row.change, 2, true)), right(fixed(row.ssim, 4)),
                 right(fixed(row.psnr, 2)), left(muted("not run here")), right("\u2013"),
                 right("\u2013"), right("\u2013"), right("\u2013"), right("\u2013")});
    }
  }
  if (!any) return "";
  return section("Published numbers beside ours", table.str(),
                 "From \u201cEnsembler: combating model inversion attacks using model ensemble "
                 "during collaborative "
                 "inference\u201d (arXiv 2401.10859). <strong>The settings differ</strong>: the "
                 "paper trains a full-width "
                 "ResNet-18 with N = 10, does not publish \u03bb, the training schedule or the "
                 "attacker\u2019s budget, and "
                 "gives neither an oracle nor intervals. A difference is therefore not an error of "
                 "either side; how "
                 "strong the attacker was matters more (see Attacks).");
}

std::string run_details(const Collection& all) {
  std::string out;
  for (const Run& run : all.runs) {
    out += "<details><summary>" + run_name(all, run) + " " + muted(escape(run.folder.string())) +
           "</summary>\n";
    out += "<h4>Command</h4><pre>" + escape(run.command.empty() ? "not recorded" : run.command) +
           "</pre>\n";
    out += "<h4>Configuration</h4><pre>" + escape(run.config) + "</pre>\n";
    out += "<h4>Facts</h4><pre>" +
           escape(run.info.dump(2, ' ', false, json::error_handler_t::replace)) +
           "</pre></details>\n";
  }
  return section("Command and configuration of each run", out);
}

std::string skipped_list(const Collection& all) {
  std::string out;
  for (const Skipped& s : all.skipped)
    out += "<li><code>" + escape(s.what) + "</code>: " + escape(s.reason) + "</li>\n";
  return out.empty() ? ""
                     : section("Left out", "<ul>" + out + "</ul>",
                               "These could not be read and are not in any number above.");
}

std::string page(const Collection& all, const std::string& stem) {
  const Run& run = main_run(all);
  return "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
         // The browser itself refuses whatever is not in this file.
         "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
         "'unsafe-inline'; "
         "img-src data:\">\n<title>Ensembler report: " +
         escape(run.setting()) + "</title>\n<style>" + kStyle +
         "</style></head><body>\n<h1>Ensembler report</h1>\n<p class=\"muted\">" +
         fmt::format("{}. {} run{}, from their folders alone.", escape(run.setting()),
                     all.runs.size(), all.runs.size() == 1 ? "" : "s") +
         (all.skipped.empty() ? ""
                              : fmt::format(" <strong>{} left out, listed at the end.</strong>",
                                            all.skipped.size())) +
         "</p>\n" + headline(all) + findings(all) + accuracy_table(all) + attack_table(all) +
         pictures(all) + latency(all) + trade_offs(all) + training_curves(all) + published(all) +
         run_details(all) + skipped_list(all) + "<footer>The same numbers: " + escape(stem) +
         ".csv, " + escape(stem) +
         ".json beside this file.</footer>\n"
         "</body></html>\n";
}

}  // namespace

void write_report(const std::vector<fs::path>& folders, const fs::path& html) {
  const Collection all = collect(folders);
  if (all.runs.empty()) {
    const std::string where = all.skipped.empty()
                                  ? (folders.empty() ? "" : folders[0].string())
                                  : all.skipped[0].what + ": " + all.skipped[0].reason;
    fail("no finished run to report on", where, "train one first: ensembler train --help");
  }
  const auto beside = [&](const char* extension) {
    return fs::path(html).replace_extension(extension);
  };
  write_file_atomically(beside(".csv"), as_csv(all), /*secret=*/false);
  write_file_atomically(beside(".json"), as_json(all), /*secret=*/false);
  write_file_atomically(html, page(all, html.stem().string()), /*secret=*/false);
}

}  // namespace ens
