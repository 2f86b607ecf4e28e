// SPDX-License-Identifier: Apache-2.0
// The report's numbers as CSV, JSON, Markdown and LaTeX.
#include <fmt/format.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/strings.h"
#include "experiment/run_dir.h"
#include "proto/config.h"
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

std::string setting(const Run& run, const std::string& path) {
  const auto found = run.settings.find(path);
  const std::string text = found == run.settings.end() ? default_text(path) : found->second;
  return text.starts_with('"') ? text.substr(1, text.size() - 2) : text;
}

// What a sweep varies, and in which settings else the runs differ that have no column yet.
std::set<std::string> varied(const ReportData& all) {
  static const std::set<std::string> kElsewhere = {"seed",
                                                   "device",
                                                   "data.name",
                                                   "data.root",
                                                   "model.width",
                                                   "model.architecture",
                                                   "model.head_cells",
                                                   "model.tail_cells",
                                                   "ensemble.nets",
                                                   "ensemble.selected",
                                                   "ensemble.sigma",
                                                   "ensemble.lambda",
                                                   "protection.kind"};
  std::set<std::string> out, known;
  for (const Run& run : all.runs) {
    for (const auto& [path, value] : run.settings) known.insert(path);
  }
  for (const std::string& path : known) {
    if (path.starts_with("attack.") || kElsewhere.count(path)) continue;
    const bool same = std::ranges::all_of(
        all.runs, [&](const Run& run) { return setting(run, path) == setting(all.runs[0], path); });
    if (!same) out.insert(path);
  }
  for (const Sweep& sweep : all.sweeps) out.insert(sweep.paths.begin(), sweep.paths.end());
  out.erase("seed");  // has a column
  return out;
}

std::vector<Column> csv_columns(const ReportData& all) {
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
  result("best_image", "best_image.image"), result("best_image_ssim", "best_image.ssim");
  result("worst_image", "worst_image.image"), result("worst_image_ssim", "worst_image.ssim");
  const auto has_channel = [](const Run& r) { return r.summary.has_channel(); };
  if (std::ranges::any_of(all.runs, has_channel)) {
    summary("channel_bits", "channel.bits"), summary("channel_elements", "channel.elements");
  }
  const auto is_blinded = [](const Run& r) { return r.summary.has_blinded(); };
  if (std::ranges::any_of(all.runs, is_blinded)) {
    summary("rounds", "blinded.rounds"), summary("clouds", "blinded.clouds");
    summary("colluding", "blinded.colluding");
  }
  const auto is_disguised = [](const Run& r) { return r.summary.has_disguise(); };
  if (std::ranges::any_of(all.runs, is_disguised)) {
    run("method", [](const Run& r) { return r.summary.disguise().method(); });
    summary("owner_microseconds", "disguise.owner_microseconds");
    summary("disguised_bytes", "disguise.disguised_bytes");
    interval("rank1", "matching.rank1");
    result("cmc5", "matching.cmc5"), result("cmc20", "matching.cmc20");
    result("guesswork", "matching.guesswork"), result("gallery", "matching.gallery");
    result("hits", "hits.all"), result("hits_non_constant", "hits.non_constant");
  }
  for (const std::string& path : varied(all))
    run(path, [path](const Run& r) { return setting(r, path); });
  return out;
}

}  // namespace

std::string as_csv(const ReportData& all) {
  const std::vector<Column> columns = csv_columns(all);
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
      return c.name == "folder"            ? failed.folder
             : c.name == "row"             ? failed.title
             : c.name == "no_numbers"      ? failed.status + ": " + failed.reason
             : failed.values.count(c.name) ? failed.values.at(c.name)
                                           : "";
    });
  }
  return out;
}

// ---- JSON

namespace {

using nlohmann::json;

// A configuration's text as an object of objects.
json settings_of(const std::string& config) {
  json out = json::object();
  for (const auto& [path, text] : config_fields(config)) {
    json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
    results::RunInfo any;  // Protobuf escapes texts in its own way
    if (text.starts_with('"') &&
        google::protobuf::TextFormat::ParseFromString("version: " + text, &any)) {
      value = any.version();
    } else if (value.is_discarded()) {  // a word
      value = text;
    }
    json* at = &out;
    for (const std::string& part : split_text(path, '.')) at = &(*at)[part];
    // A list is written as one line an element.
    if (at->is_array()) {
      at->push_back(value);
    } else if (at->is_null()) {
      *at = value;
    } else {
      *at = json::array({*at, value});
    }
  }
  return out;
}

// The same of a result's settings: those of its attack, then how the run was attacked.
json attack_settings(const std::string& identity) {
  const size_t end = std::min(identity.find("observed: "), identity.size());
  json out = settings_of("attack {\n" + identity.substr(0, end) + "}\n");
  out.update(settings_of(identity.substr(end)));
  return out;
}

}  // namespace

std::string as_json(const ReportData& all) {
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
                          {"settings", attack_settings(a.result.settings())},
                          {"strength", a.has_numbers() ? json(a.strength_word()) : json()}};
      attacks.push_back(entry);
    }
    out["runs"].push_back({{"folder", r.folder.string()},
                           {"row", r.label},
                           {"info", file(r.info)},
                           {"config", r.config},
                           {"settings", settings_of(r.config)},
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

// ---- the main table, for Markdown and LaTeX

namespace {

// Text for a cell of the table, or a part of it.
struct Text {
  std::string text;
  bool strong = false;
};
using TextRow = std::vector<std::vector<Text>>;  // by column

struct TextColumn {
  const char* name;
  bool number;
  const char* latex;  // its name where room is short; null: there is none for it
};
constexpr TextColumn kColumns[] = {{"Protection", false, "Protection"},
                                   {"Accuracy, %", true, "Accuracy, %"},
                                   {"Change, points", true, "Change"},
                                   {"Up, bytes", true, nullptr},
                                   {"Down, bytes", true, nullptr},
                                   {"Edge, ms", true, nullptr},
                                   {"Attack", false, "Attack"},
                                   {"SSIM", true, "SSIM"},
                                   {"PSNR, dB", true, "PSNR, dB"},
                                   {"Recognised", true, "Recog."},
                                   {"Re-identified", true, "Re-id."},
                                   {"Floor, SSIM", true, "Floor"},
                                   {"Of the decoder on true features", true, "Of oracle"},
                                   {"Against no protection", false, "Strength"},
                                   {"Notes", false, nullptr}};
constexpr size_t kOfRow = 6;  // the first columns are said once a row

std::string range(const Interval& v, int digits, double factor = 1) {
  if (!v.has_mean()) return "\u2013";
  std::string out = fixed(v.mean() * factor, digits);
  if (v.has_low() && v.has_high()) {
    out +=
        fmt::format(" [{}, {}]", fixed(v.low() * factor, digits), fixed(v.high() * factor, digits));
  }
  return out;
}

std::vector<Text> strength(const SeedGroupAttack& a) {
  std::vector<Text> out = {{a.strength_word, a.strength <= Strength::kWeak}};
  if (a.of_oracle_unprotected) out.push_back({" " + weak_share(*a.of_oracle_unprotected)});
  return out;
}

std::string notes(const ReportData& all, const SeedGroupAttack& a) {
  std::string out;
  const auto note = [&](const std::string& text) { out += (out.empty() ? "" : "; ") + text; };
  if (a.with_truth) {
    note(fmt::format("best of {}, selected using the ground truth",
                     all.at(a.members[0]).result.best_of()));
  }
  if (a.own_pick && a.with_truth) note("own choice SSIM " + format(a.own_pick, kSsim));
  if (a.best_ssim.mean() > a.ssim.mean()) {
    note("its " + all.at(a.members[0]).negative_name() + " SSIM " +
         fixed(a.best_ssim.mean(), kSsim));
  }
  if (a.metric != "default") note("metric " + a.metric);
  return out;
}

Maybe floor_of(const ReportData& all, const SeedGroupAttack& a) {
  Spread out;
  for (const auto& member : a.members) out.add(number(all.at(member).result, "floor.ssim.mean"));
  return out.mean();
}

std::vector<TextRow> text_rows(const ReportData& all, const Comparison& comparison) {
  std::vector<TextRow> out;
  for (const SeedGroup& row : comparison.rows) {
    std::string title = row.title;
    if (row.runs.size() > 1) title += fmt::format(" ({} runs)", row.runs.size());
    for (const int i : row.runs) {
      const std::string& note = all.runs[static_cast<size_t>(i)].note;
      if (!note.empty()) title += " (sweep: " + note + ")";
    }
    const bool open = !all.first(row).is_protected();
    TextRow first = {{{title}},
                     {{range(row.accuracy, 1, 100)}},
                     {{open ? "\u2013" : range(row.change, 1, 100)}},
                     {{plain(row.bytes_up)}},
                     {{plain(row.bytes_down)}},
                     {{format(row.edge_ms, kMs)}}};
    const auto add = [&](const TextRow& rest) {
      out.push_back(first);
      out.back().insert(out.back().end(), rest.begin(), rest.end());
      out.back().resize(std::size(kColumns));
      first.assign(kOfRow, {});
    };
    if (row.attacks.empty()) add({{{"not attacked"}}});
    for (const SeedGroupAttack& a : row.attacks) {
      const std::vector<Text> unknown = {{"\u2013"}};
      if (a.members.empty()) {
        const std::vector<Text> why = a.error.empty()
                                          ? std::vector<Text>{{"does not apply: " + a.pointless}}
                                          : std::vector<Text>{{"failed", true}, {": " + a.error}};
        add({{{a.title}},
             unknown,
             unknown,
             unknown,
             unknown,
             unknown,
             unknown,
             {{a.error.empty() ? "does not apply" : "failed", !a.error.empty()}},
             why});
      } else {
        add({{{a.title}},
             {{range(a.ssim, kSsim) + (a.with_truth ? "\u2020" : "")}},
             {{range(a.psnr, kPsnr)}},
             {{percent(a.recognition_rate, 0)}},
             {{percent(a.reidentification_rate, 0)}},
             {{format(floor_of(all, a), kSsim)}},
             {{percent(a.of_oracle, 0)}},
             strength(a),
             {{notes(all, a)}}});
      }
    }
  }
  for (const int i : comparison.failed) {
    const FailedCell& cell = all.failed[static_cast<size_t>(i)];
    TextRow row(std::size(kColumns));
    row.front() = {{cell.title}};
    row[std::size(kColumns) - 2] = {{cell.status, true}};
    row.back() = {{cell.status, true}, {": " + cell.reason}};
    out.push_back(row);
  }
  return out;
}

std::string title_of(const Comparison& comparison) {
  return comparison.title.empty() ? "Setting not known" : comparison.title;
}

constexpr const char* kLegend =
    "SSIM and PSNR: mean with the bootstrap 95 % interval over the images; of several seeds the "
    "mean with the smallest and the largest. \u2020: the best of several reconstructions, selected "
    "using the ground truth. Recognised: a reference classifier sees the true class; "
    "re-identified: "
    "nearest to its own original among all originals. Floor: the best guess that does not look at "
    "what the client sent.";

}  // namespace

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

}  // namespace

std::string as_markdown(const ReportData& all) {
  std::vector<std::string> names;
  std::string align;
  for (const TextColumn& column : kColumns) {
    names.push_back(column.name);
    align += column.number ? 'r' : 'l';
  }
  std::string out;
  for (const Comparison& comparison : all.comparisons) {
    out += "### " + marked(title_of(comparison)) + "\n\n" + head(names, align);
    for (const TextRow& row : text_rows(all, comparison)) {
      std::vector<std::string> cells;
      for (const std::vector<Text>& texts : row) {
        std::string& cell = cells.emplace_back();
        for (const auto& [text, strong] : texts)
          cell += strong ? "**" + marked(text) + "**" : marked(text);
      }
      out += line(cells);
    }
    out += "\n";
  }
  out += std::string(kLegend) + " Bytes are per image.\n";
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
                   format(row.our_change, 1, "", true), format(row.our_ssim, kSsim),
                   format(row.our_psnr, kPsnr), format(row.ssim_difference(), 3, "", true),
                   format(row.psnr_difference(), 2, "", true)});
    }
    if (!table.gate.empty()) out += "\n" + table.gate + "\n";
  }
  return out;
}

// ---- LaTeX

namespace {

std::string tex(const std::string& text) {
  static const std::map<std::string, std::string> kWritten = {{"\\", "\\textbackslash{}"},
                                                              {"&", "\\&"},
                                                              {"%", "\\%"},
                                                              {"$", "\\$"},
                                                              {"#", "\\#"},
                                                              {"_", "\\_"},
                                                              {"{", "\\{"},
                                                              {"}", "\\}"},
                                                              {"~", "\\textasciitilde{}"},
                                                              {"^", "\\textasciicircum{}"},
                                                              {"<", "\\textless{}"},
                                                              {">", "\\textgreater{}"},
                                                              {"[", "{[}"},
                                                              {"]", "{]}"},
                                                              {"\n", " "},
                                                              {"\r", " "},
                                                              {"\u2212", "$-$"},
                                                              {"\u2013", "--"},
                                                              {"\u202f", "\\,"},
                                                              {"\u2020", "$^\\dagger$"},
                                                              {"\u03bb", "$\\lambda$"},
                                                              {"\u03c3", "$\\sigma$"},
                                                              {"\u2019", "'"},
                                                              {"\u0394", "$\\Delta$"}};
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const size_t length = c < 0xc0 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    const std::string one = text.substr(i, length);
    const auto written = kWritten.find(one);
    out += written == kWritten.end() ? one : written->second;
    i += length;
  }
  return out;
}

}  // namespace

std::string as_latex(const ReportData& all) {
  std::string out =
      "% Needs \\usepackage{booktabs}. Made for a landscape page; in a column take some away.\n"
      "% Of oracle: share of the SSIM of the decoder on true features. Strength: against no "
      "protection.\n";
  std::string align, names;
  for (const TextColumn& column : kColumns) {
    if (!column.latex) continue;
    align += column.number ? "r" : "p{.14\\textwidth}";
    names += (names.empty() ? "" : " & ") + tex(column.latex);
  }
  for (const Comparison& comparison : all.comparisons) {
    out += "\\begin{table}\n\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}\n\\caption{" +
           tex(title_of(comparison)) + ". " + tex(kLegend) + "}\n\\begin{tabular}{" + align +
           "}\n\\toprule\n" + names + " \\\\\n";
    for (const TextRow& row : text_rows(all, comparison)) {
      if (!row[0].empty()) out += "\\midrule\n";
      std::string cells;
      for (size_t i = 0; i < row.size(); ++i) {
        if (!kColumns[i].latex) continue;
        if (i > 0) cells += " & ";
        for (const auto& [text, strong] : row[i])
          cells += strong ? "\\textbf{" + tex(text) + "}" : tex(text);
      }
      out += cells + " \\\\\n";
    }
    out += "\\bottomrule\n\\end{tabular}\n\\end{table}\n\n";
  }
  return out;
}

}  // namespace ens::report
