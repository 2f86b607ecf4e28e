// The report's numbers as CSV, JSON and Markdown.
#include <fmt/format.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "report/data.h"
#include "report/html.h"
#include "report/published.h"

namespace ens::report {

// ---- CSV

namespace {

// A cell of the table. `attack` is null for a run that was not attacked.
struct Column {
  std::string name;
  std::function<std::string(const Run& run, const Attack* attack)> value;
};

std::string cell(const Maybe& value) { return value ? fmt::format("{}", *value) : ""; }

std::vector<Column> csv_columns() {
  std::vector<Column> out;
  const auto run = [&](const std::string& name, auto value) {
    out.push_back({name, [value](const Run& r, const Attack*) { return std::string(value(r)); }});
  };
  const auto summary = [&](const std::string& name, const char* path) {
    run(name, [path](const Run& r) { return cell(r.get(path)); });
  };
  const auto attack = [&](const std::string& name, auto value) {
    out.push_back({name, [value](const Run&, const Attack* a) {
                     return a ? std::string(value(*a)) : std::string();
                   }});
  };
  const auto result = [&](const std::string& name, const std::string& path) {
    attack(name, [path](const Attack& a) { return cell(number(a.result, path)); });
  };
  const auto interval = [&](const std::string& name, const std::string& path) {
    for (const auto& [suffix, end] : {std::pair("", "mean"), {"_low", "low"}, {"_high", "high"}})
      result(name + suffix, path + "." + end);
  };
  run("folder", [](const Run& r) { return r.folder.string(); });
  run("row", [](const Run& r) { return r.label; });
  run("protection", [](const Run& r) { return r.protection(); });
  run("data", [](const Run& r) { return r.summary.data(); });
  run("architecture", [](const Run& r) { return r.summary.architecture(); });
  summary("width", "width"), summary("head", "split.head"), summary("tail", "split.tail");
  summary("nets", "nets"), summary("selected", "selected");
  summary("sigma", "sigma"), summary("lambda", "lambda");
  run("seed", [](const Run& r) { return cell(r.seed()); });
  summary("accuracy", "accuracy");
  run("accuracy_change", [](const Run& r) { return cell(r.accuracy_change); });
  summary("similarity", "similarity"), summary("snr", "snr");
  summary("distance_correlation", "distance_correlation");
  summary("edge_flops", "flops.edge");
  summary("bytes_up", "bytes.up"), summary("bytes_down", "bytes.down");
  run("edge_ms", [](const Run& r) { return cell(r.edge_ms()); });
  run("total_ms", [](const Run& r) { return cell(r.latency("total")); });
  run("command", [](const Run& r) { return r.info.command(); });
  attack("attack", [](const Attack& a) { return a.kind(); });
  attack("level", [](const Attack& a) { return a.result.level(); });
  attack("metric", [](const Attack& a) { return a.metric(); });
  result("best_of", "best_of");
  attack("chosen_by", [](const Attack& a) { return a.result.chosen_by(); });
  attack("scored_images", [](const Attack& a) { return std::to_string(a.result.scored_images()); });
  interval("ssim", "ssim"), interval("psnr", "psnr"), interval("mse", "mse");
  interval("recognised", "reference.recognised");
  result("originals_recognised", "reference.originals");
  interval("reidentified", "reference.reidentified");
  result("own_pick_ssim", "own_pick.ssim"), result("own_pick_psnr", "own_pick.psnr");
  attack("share_of_oracle", [](const Attack& a) { return cell(a.of_oracle); });
  attack("share_of_oracle_unprotected",
         [](const Attack& a) { return cell(a.of_oracle_unprotected); });
  attack("strength", [](const Attack& a) { return a.strength_word(); });
  attack("why", [](const Attack& a) { return a.why; });
  attack("below_floor", [](const Attack& a) { return cell(a.below_floor); });
  result("own_ssim", "own.ssim"), result("own_psnr", "own.psnr");
  result("negative_ssim", "negative.ssim"), result("negative_psnr", "negative.psnr");
  attack("negative_better",
         [](const Attack& a) { return a.result.negative().better() ? "true" : "false"; });
  attack("no_numbers", [](const Attack& a) {
    return a.result.error().empty() ? a.result.pointless() : "failed: " + a.result.error();
  });
  return out;
}

}  // namespace

std::string as_csv(const ReportData& all) {
  const std::vector<Column> columns = csv_columns();
  std::string out;
  const auto add = [&](auto&& value) {  // of a column
    for (size_t i = 0; i < columns.size(); ++i) {
      const std::string field = value(columns[i]);
      const bool quote = field.find_first_of(",\"\r\n") != std::string::npos;
      std::string text;
      for (const char c : field) text += c == '"' ? "\"\"" : std::string(1, c);
      out += (i ? "," : "") + (quote ? "\"" + text + "\"" : text);
    }
    out += "\r\n";
  };
  add([](const Column& c) { return c.name; });
  for (const Run& r : all.runs) {
    if (r.attacks.empty()) add([&](const Column& c) { return c.value(r, nullptr); });
    for (const Attack& a : r.attacks) add([&](const Column& c) { return c.value(r, &a); });
  }
  for (const FailedCell& failed : all.failed) {
    add([&](const Column& c) -> std::string {
      return c.name == "folder"       ? failed.folder
             : c.name == "row"        ? failed.title
             : c.name == "no_numbers" ? failed.status + ": " + failed.reason
                                      : "";
    });
  }
  return out;
}

// ---- JSON

std::string as_json(const ReportData& all) {
  using nlohmann::json;
  const auto number = [](const Maybe& value) { return value ? json(*value) : json(); };
  const auto file = [](const google::protobuf::Message& message) {
    return json::parse(results::to_json(message));
  };
  json out = {{"runs", json::array()}, {"failed", json::array()}, {"skipped", json::array()}};
  for (const Run& r : all.runs) {
    json attacks = json::array();
    for (const Attack& a : r.attacks) {
      json entry = file(a.result);
      entry["derived"] = {{"share_of_oracle", number(a.of_oracle)},
                          {"share_of_oracle_unprotected", number(a.of_oracle_unprotected)},
                          {"below_floor", number(a.below_floor)},
                          {"why", a.why},
                          {"strength", a.has_numbers() ? json(a.strength_word()) : json()}};
      attacks.push_back(entry);
    }
    out["runs"].push_back({{"folder", r.folder.string()},
                           {"row", r.label},
                           {"info", file(r.info)},
                           {"config", r.config},
                           {"summary", file(r.summary)},
                           {"serve", r.serving ? file(*r.serving) : json()},
                           {"accuracy_change", number(r.accuracy_change)},
                           {"attacks", attacks}});
  }
  for (const FailedCell& cell : all.failed) {
    out["failed"].push_back({{"folder", cell.folder},
                             {"title", cell.title},
                             {"setting", cell.setting},
                             {"status", cell.status},
                             {"reason", cell.reason}});
  }
  for (const Skipped& s : all.skipped)
    out["skipped"].push_back({{"what", s.what}, {"reason", s.reason}});
  return out.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

// ---- Markdown

namespace {

// Text for a cell: on one line, and nothing that GitHub would take for markup.
std::string marked(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|' || c == '*' || c == '_' || c == '`' || c == '<' || c == '[' || c == '\\')
      out += '\\';
    out += c == '\n' || c == '\r' ? ' ' : c;
  }
  return out;
}

std::string line(const std::vector<std::string>& cells) {
  std::string out = "|";
  for (const std::string& cell : cells) out += " " + cell + " |";
  return out + "\n";
}

// `right`: the columns with numbers, one letter a column.
std::string head(const std::vector<std::string>& names, const std::string& right) {
  std::vector<std::string> rule;
  for (const char c : right) rule.push_back(c == 'r' ? "--:" : "---");
  return line(names) + line(rule);
}

std::string range(const Interval& v, int digits, double factor = 1) {
  if (!v.has_mean()) return "\u2013";
  std::string out = fixed(v.mean() * factor, digits);
  if (v.has_low() && v.has_high()) {
    out +=
        fmt::format(" [{}, {}]", fixed(v.low() * factor, digits), fixed(v.high() * factor, digits));
  }
  return out;
}

std::string strength(const SeedGroupAttack& a) {
  const std::string word =
      a.strength <= Strength::kWeak ? "**" + a.strength_word + "**" : a.strength_word;
  return a.of_oracle_unprotected ? word + " " + weak_share(*a.of_oracle_unprotected) : word;
}

std::string notes(const ReportData& all, const SeedGroupAttack& a) {
  std::string out;
  const auto note = [&](const std::string& text) { out += (out.empty() ? "" : "; ") + text; };
  if (a.with_truth) {
    note(fmt::format("best of {}, selected using the ground truth",
                     all.at(a.members[0]).result.best_of()));
  }
  if (a.own_pick && a.with_truth) note("own choice SSIM " + format(a.own_pick, 3));
  if (*a.best_ssim > a.ssim.mean()) {
    note("its " + all.at(a.members[0]).negative_name() + " SSIM " + format(a.best_ssim, 3));
  }
  if (a.metric != "default") note("metric " + marked(a.metric));
  return out;
}

}  // namespace

std::string as_markdown(const ReportData& all) {
  std::string out;
  for (const Comparison& comparison : all.comparisons) {
    out += "### " + (comparison.title.empty() ? "Setting not known" : marked(comparison.title)) +
           "\n\n";
    out += head({"Protection", "Accuracy, %", "Change, points", "Up, bytes", "Down, bytes",
                 "Edge, ms", "Attack", "SSIM", "PSNR, dB", "Recognised", "Re-identified",
                 "Of the decoder on true features", "Against no protection", "Notes"},
                "lrrrrrlrrrrrll");
    for (const SeedGroup& row : comparison.rows) {
      std::string title = marked(row.title);
      if (row.runs.size() > 1) title += fmt::format(" ({} runs)", row.runs.size());
      for (const int i : row.runs) {
        const std::string& note = all.runs[static_cast<size_t>(i)].note;
        if (!note.empty()) title += " (sweep: " + marked(note) + ")";
      }
      const bool open = !all.first(row).is_protected();
      std::vector<std::string> first = {title,
                                        range(row.accuracy, 1, 100),
                                        open ? "\u2013" : range(row.change, 1, 100),
                                        plain(row.bytes_up),
                                        plain(row.bytes_down),
                                        format(row.edge_ms, 2)};
      const auto add = [&](const std::vector<std::string>& rest) {
        std::vector<std::string> cells = first;
        cells.insert(cells.end(), rest.begin(), rest.end());
        out += line(cells);
        first.assign(first.size(), "");  // said once
      };
      if (row.attacks.empty()) add({"not attacked", "", "", "", "", "", "", ""});
      for (const SeedGroupAttack& a : row.attacks) {
        if (a.members.empty()) {
          add({marked(a.title), "\u2013", "\u2013", "\u2013", "\u2013", "\u2013", "\u2013",
               a.error.empty() ? "does not apply: " + marked(a.pointless)
                               : "**failed**: " + marked(a.error)});
        } else {
          add({marked(a.title), range(a.ssim, 3), range(a.psnr, 2), percent(a.recognition_rate, 0),
               percent(a.reidentification_rate, 0), percent(a.of_oracle, 0), strength(a),
               notes(all, a)});
        }
      }
    }
    for (const int i : comparison.failed) {
      const FailedCell& cell = all.failed[static_cast<size_t>(i)];
      out += line({marked(cell.title), "", "", "", "", "", "", "", "", "", "", "", "",
                   "**" + marked(cell.status) + "**: " + marked(cell.reason)});
    }
    out += "\n";
  }
  out +=
      "SSIM and PSNR: mean with the bootstrap 95 % interval over the images; of several seeds the "
      "mean with the smallest and the largest. Recognised: a reference classifier sees the true "
      "class; re-identified: nearest to its own original among all originals. Bytes are per "
      "image.\n";
  for (const PublishedTable& table : published(all)) {
    out += "\n### Beside " + marked(table.source) + "\n\n" + table.remark + "\n\n";
    out +=
        head({"Data", "Published row", "\u0394 accuracy", "SSIM", "PSNR", "Ours", "\u0394 accuracy",
              "SSIM", "PSNR", "SSIM, ours \u2212 theirs", "PSNR, ours \u2212 theirs"},
             "llrrrlrrrrr");
    for (const PublishedRow& row : table.rows) {
      out += line({marked(row.group), marked(row.name), format(row.change, 2, "", true),
                   format(row.ssim, 4), format(row.psnr, 2),
                   row.ours.empty() ? "not run here" : marked(row.ours + ", " + row.attack),
                   format(row.our_change, 2, "", true), format(row.our_ssim, 4),
                   format(row.our_psnr, 2), format(row.ssim_difference(), 3, "", true),
                   format(row.psnr_difference(), 2, "", true)});
    }
    if (!table.gate.empty()) out += "\n" + table.gate + "\n";
  }
  return out;
}

}  // namespace ens::report
