// The report's numbers as CSV, JSON and Markdown.
#include <fmt/format.h>

#include "report/data.h"
#include "report/html.h"
#include "report/published.h"

namespace ens::report {

using nlohmann::json;

std::string as_csv(const Collection& all) {
  using Fields = std::vector<std::string>;
  const Fields columns = {"folder",
                          "row",
                          "protection",
                          "data",
                          "architecture",
                          "width",
                          "head",
                          "tail",
                          "nets",
                          "selected",
                          "sigma",
                          "lambda",
                          "seed",
                          "accuracy",
                          "accuracy_change",
                          "similarity",
                          "snr",
                          "distance_correlation",
                          "edge_flops",
                          "bytes_up",
                          "bytes_down",
                          "edge_ms",
                          "total_ms",
                          "command",
                          "attack",
                          "level",
                          "metric",
                          "best_of",
                          "chosen_by",
                          "scored_images",
                          "ssim",
                          "ssim_low",
                          "ssim_high",
                          "psnr",
                          "psnr_low",
                          "psnr_high",
                          "mse",
                          "mse_low",
                          "mse_high",
                          "recognised",
                          "recognised_low",
                          "recognised_high",
                          "originals_recognised",
                          "reidentified",
                          "reidentified_low",
                          "reidentified_high",
                          "own_pick_ssim",
                          "own_pick_psnr",
                          "share_of_oracle",
                          "share_of_oracle_unprotected",
                          "strength",
                          "own_ssim",
                          "own_psnr",
                          "negative_ssim",
                          "negative_psnr",
                          "negative_better",
                          "no_numbers"};
  std::string out;
  const auto add = [&](Fields fields) {
    fields.resize(columns.size());
    for (size_t i = 0; i < fields.size(); ++i) {
      const bool quote = fields[i].find_first_of(",\"\r\n") != std::string::npos;
      std::string text;
      for (const char c : fields[i]) text += c == '"' ? "\"\"" : std::string(1, c);
      out += (i ? "," : "") + (quote ? "\"" + text + "\"" : text);
    }
    out += "\r\n";
  };
  const auto put = [](Fields& fields, const Number& value) {
    fields.push_back(value ? fmt::format("{}", *value) : "");
  };
  const auto put_interval = [&](Fields& fields, const std::optional<Interval>& v) {
    put(fields, v ? Number(v->mean) : Number());
    put(fields, v ? v->low : Number());
    put(fields, v ? v->high : Number());
  };
  add(columns);
  for (const Run& r : all.runs) {
    const auto total = r.latency.find("total");
    Fields run = {r.folder.string(), r.label, r.protection, r.data, r.architecture};
    for (const Number& value :
         {r.width, r.head, r.tail, r.nets, r.selected, r.sigma, r.lambda, r.seed, r.accuracy,
          r.accuracy_change, r.similarity, r.snr, r.distance_correlation, r.edge_flops, r.bytes_up,
          r.bytes_down, r.edge_ms(), total == r.latency.end() ? Number() : total->second.p50}) {
      put(run, value);
    }
    run.push_back(r.command);
    if (r.attacks.empty()) add(run);
    for (const Attack& a : r.attacks) {
      Fields f = run;
      f.insert(f.end(), {a.kind, a.level, a.metric, std::to_string(a.best_of), a.chosen_by,
                         std::to_string(a.scored_images)});
      put_interval(f, a.ssim), put_interval(f, a.psnr), put_interval(f, a.mse);
      put_interval(f, a.recognised), put(f, a.originals_recognised);
      put_interval(f, a.reidentified);
      put(f, a.own_pick ? a.own_pick->score.ssim : Number());
      put(f, a.own_pick ? a.own_pick->score.psnr : Number());
      put(f, a.of_oracle), put(f, a.strength);
      f.push_back(a.has_numbers() ? a.strength_word() : "");
      put(f, a.own.ssim), put(f, a.own.psnr), put(f, a.negative.ssim), put(f, a.negative.psnr);
      f.push_back(a.negative_better ? "true" : "false");
      f.push_back(a.error.empty() ? a.pointless : "failed: " + a.error);
      add(f);
    }
  }
  for (const FailedCell& cell : all.failed) {
    Fields f = {cell.folder, cell.title};
    f.resize(columns.size() - 1);
    f.push_back(cell.status + ": " + cell.reason);
    add(f);
  }
  return out;
}

std::string as_json(const Collection& all) {
  const auto number = [](const Number& value) { return value ? json(*value) : json(); };
  json out = {{"runs", json::array()}, {"failed", json::array()}, {"skipped", json::array()}};
  for (const Run& r : all.runs) {
    json attacks = json::array();
    for (const Attack& a : r.attacks) {
      json entry = a.raw;
      entry["derived"] = {{"share_of_oracle", number(a.of_oracle)},
                          {"share_of_oracle_unprotected", number(a.strength)},
                          {"strength", a.has_numbers() ? json(a.strength_word()) : json()}};
      attacks.push_back(entry);
    }
    out["runs"].push_back({{"folder", r.folder.string()},
                           {"row", r.label},
                           {"info", r.info},
                           {"config", r.config},
                           {"summary", r.summary},
                           {"serve", r.serve},
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

std::string range(const std::optional<Interval>& v, int digits, double factor = 1) {
  if (!v) return "\u2013";
  std::string out = fixed(v->mean * factor, digits);
  if (v->low && v->high) {
    out +=
        fmt::format(" [{}, {}]", fixed(*v->low * factor, digits), fixed(*v->high * factor, digits));
  }
  return out;
}

std::string strength(const RowAttack& a) {
  if (a.kind == "oracle") return "upper bound";
  if (!a.strength) return "not calibrated";
  return a.weak() ? "**weak attacker** " + weak_share(*a.strength)
                  : "strong enough " + percent(a.strength, 0);
}

std::string notes(const Collection& all, const RowAttack& a) {
  std::string out;
  const auto note = [&](const std::string& text) { out += (out.empty() ? "" : "; ") + text; };
  if (a.with_truth) {
    note(fmt::format("best of {}, chosen with the truth", all.at(a.members[0]).best_of));
  }
  if (a.own_pick && a.with_truth) note("own pick SSIM " + show(a.own_pick, 3));
  if (*a.best_ssim > a.ssim->mean) note("luminance negative SSIM " + show(a.best_ssim, 3));
  if (a.metric != "default") note("metric " + marked(a.metric));
  return out;
}

}  // namespace

std::string as_markdown(const Collection& all) {
  std::string out;
  for (const Setting& setting : all.settings) {
    out += "### " + (setting.title.empty() ? "Setting not known" : marked(setting.title)) + "\n\n";
    out += head({"Protection", "Accuracy, %", "Change, points", "Up, bytes", "Down, bytes",
                 "Edge, ms", "Attack", "SSIM", "PSNR, dB", "Recognised", "Re-identified",
                 "Of the oracle", "Against no protection", "Notes"},
                "lrrrrrlrrrrrll");
    for (const Row& row : setting.rows) {
      std::string title = marked(row.title);
      if (row.runs.size() > 1) title += fmt::format(" ({} runs)", row.runs.size());
      for (const int i : row.runs) {
        const std::string& note = all.runs[static_cast<size_t>(i)].note;
        if (!note.empty()) title += " (sweep: " + marked(note) + ")";
      }
      const bool open = all.first(row).protection == "none";
      std::vector<std::string> first = {title,
                                        range(row.accuracy, 1, 100),
                                        open ? "\u2013" : range(row.change, 1, 100),
                                        plain(row.bytes_up),
                                        plain(row.bytes_down),
                                        show(row.edge_ms, 2)};
      const auto add = [&](const std::vector<std::string>& rest) {
        std::vector<std::string> cells = first;
        cells.insert(cells.end(), rest.begin(), rest.end());
        out += line(cells);
        first.assign(first.size(), "");  // said once
      };
      if (row.attacks.empty()) add({"not attacked", "", "", "", "", "", "", ""});
      for (const RowAttack& a : row.attacks) {
        if (a.members.empty()) {
          add({marked(a.title), "\u2013", "\u2013", "\u2013", "\u2013", "\u2013", "\u2013",
               a.error.empty() ? "does not apply: " + marked(a.pointless)
                               : "**failed**: " + marked(a.error)});
        } else {
          add({marked(a.title), range(a.ssim, 3), range(a.psnr, 2), percent(a.recognised, 0),
               percent(a.reidentified, 0), percent(a.of_oracle, 0), strength(a), notes(all, a)});
        }
      }
    }
    for (const int i : setting.failed) {
      const FailedCell& cell = all.failed[static_cast<size_t>(i)];
      out += line({marked(cell.title), "", "", "", "", "", "", "", "", "", "", "", "",
                   "**" + marked(cell.status) + "**: " + marked(cell.reason)});
    }
    out += "\n";
  }
  out +=
      "SSIM and PSNR: mean with the bootstrap 95 % interval over the pictures; of several seeds "
      "the "
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
      out += line({marked(row.group), marked(row.name), show(row.change, 2, "", true),
                   show(row.ssim, 4), show(row.psnr, 2),
                   row.ours.empty() ? "not run here" : marked(row.ours + ", " + row.attack),
                   show(row.our_change, 2, "", true), show(row.our_ssim, 4), show(row.our_psnr, 2),
                   show(row.ssim_difference(), 3, "", true),
                   show(row.psnr_difference(), 2, "", true)});
    }
    if (!table.gate.empty()) out += "\n" + table.gate + "\n";
  }
  return out;
}

}  // namespace ens::report
