// Reading run folders and sweeps; nothing is compared here.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <set>
#include <stdexcept>
#include <tuple>

#include "experiment/run_dir.h"
#include "report/data.h"

namespace ens::report {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// The reason why a folder or file is left out; caught in this file.
struct Damage : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::string read_bytes(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw Damage(file.filename().string() + " cannot be opened");
  std::string bytes{std::istreambuf_iterator<char>(in), {}};
  if (in.bad()) throw Damage(file.filename().string() + " cannot be read");
  return bytes;
}

json parse_object(const std::string& text, const std::string& name) {
  json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) throw Damage(name + " is not valid JSON (cut off?)");
  if (!value.is_object()) throw Damage(name + " does not hold a JSON object");
  return value;
}

json read_object(const fs::path& file) {
  return parse_object(read_bytes(file), file.filename().string());
}

// A typed field; null and missing are "not there", another type is damage.
const json* find(const json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

Number number(const json& object, const char* key) {
  const json* value = find(object, key);
  if (!value) return {};
  if (!value->is_number()) throw Damage(fmt::format("field '{}' is not a number", key));
  const double number = value->get<double>();
  return std::isfinite(number) ? Number(number) : Number();
}

std::string text(const json& object, const char* key, const std::string& otherwise = "") {
  const json* value = find(object, key);
  if (!value) return otherwise;
  if (!value->is_string()) throw Damage(fmt::format("field '{}' is not a text", key));
  return value->get<std::string>();
}

bool flag(const json& object, const char* key) {
  const json* value = find(object, key);
  if (value && !value->is_boolean()) throw Damage(fmt::format("field '{}' is not a boolean", key));
  return value && value->get<bool>();
}

// A nested object or list; an empty one if it is not there.
json nested(const json& object, const char* key, json::value_t type) {
  const json* value = find(object, key);
  if (!value) return json(type);
  if (value->type() != type) throw Damage(fmt::format("field '{}' has the wrong type", key));
  return *value;
}
json object_in(const json& object, const char* key) {
  return nested(object, key, json::value_t::object);
}
json list_in(const json& object, const char* key) {
  return nested(object, key, json::value_t::array);
}

std::string required_text(const json& object, const char* key) {
  const std::string value = text(object, key);
  if (value.empty()) throw Damage(fmt::format("field '{}' is missing", key));
  return value;
}

std::optional<Interval> interval(const json& object, const char* key) {
  const json value = object_in(object, key);
  const Number mean = number(value, "mean");
  if (!mean) return {};
  return Interval{*mean, number(value, "low"), number(value, "high")};
}

Score score(const json& object) { return {number(object, "ssim"), number(object, "psnr")}; }

Part read_part(const json& object) {
  return {text(object, "name"), score(object), number(object, "merit"), number(object, "x")};
}

// A picture is optional; one that is not a PNG is damage.
std::string read_png(const fs::path& file) {
  if (!fs::exists(file)) return {};
  std::string bytes = read_bytes(file);
  if (bytes.size() < 33 || bytes.compare(0, 8, "\x89PNG\r\n\x1a\n") != 0 ||
      bytes.compare(12, 4, "IHDR") != 0) {
    throw Damage(file.filename().string() + " is not a PNG picture");
  }
  return bytes;
}

Attack read_attack(const fs::path& folder, std::vector<Skipped>& skipped) {
  Attack a;
  a.folder = folder.filename().string();
  a.raw = read_object(folder / "result.json");
  a.kind = text(a.raw, "attack", a.folder);
  a.title = text(a.raw, "title", a.kind);
  a.level = text(a.raw, "level");
  a.chosen_by = text(a.raw, "chosen_by");
  a.metric = text(a.raw, "metric", a.metric);
  a.error = text(a.raw, "error");
  a.pointless = text(a.raw, "pointless");
  a.best_of = static_cast<int64_t>(number(a.raw, "best_of").value_or(1));
  a.scored_images = static_cast<int64_t>(number(a.raw, "scored_images").value_or(0));
  a.ssim = interval(a.raw, "ssim");
  a.psnr = interval(a.raw, "psnr");
  a.mse = interval(a.raw, "mse");
  const json seen = object_in(a.raw, "reference");
  a.recognised = interval(seen, "recognised");
  a.reidentified = interval(seen, "reidentified");
  a.originals_recognised = number(seen, "originals");
  a.own = score(object_in(a.raw, "own"));
  const json negative = object_in(a.raw, "negative");
  a.negative = score(negative);
  a.negative_better = flag(negative, "better");
  a.shadow_accuracy = number(a.raw, "shadow_accuracy");
  a.seconds = number(a.raw, "seconds");
  for (const json& part : list_in(a.raw, "parts")) {
    if (!part.is_object()) throw Damage("field 'parts' holds something else than objects");
    a.parts.push_back(read_part(part));
  }
  if (const json pick = object_in(a.raw, "own_pick"); !pick.empty()) a.own_pick = read_part(pick);
  if (a.error.empty() && a.pointless.empty() && !a.ssim) {
    throw Damage("result.json has neither an SSIM nor an error");
  }
  try {
    a.original_png = read_png(folder / "original.png");
    a.reconstruction_png = read_png(folder / "reconstruction.png");
  } catch (const Damage& damage) {  // the numbers stand without the pictures
    a.original_png.clear();
    a.reconstruction_png.clear();
    skipped.push_back({folder.string() + " (pictures)", damage.what()});
  }
  return a;
}

std::vector<fs::path> sorted_subfolders(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->is_directory(error)) found.push_back(it->path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

void read_summary(Run& run) {
  const json& s = run.summary;
  run.protection = required_text(s, "protection");
  run.data = required_text(s, "data");
  run.architecture = text(s, "architecture", "unknown model");
  run.nets = number(s, "nets");
  run.selected = number(s, "selected");
  run.sigma = number(s, "sigma");
  run.lambda = number(s, "lambda");
  run.width = number(s, "width");
  run.head = number(object_in(s, "split"), "head");
  run.tail = number(object_in(s, "split"), "tail");
  run.train_images = number(s, "train_images");
  run.test_images = number(s, "test_images");
  run.accuracy = number(s, "accuracy");
  run.similarity = number(s, "similarity");
  run.snr = number(s, "snr");
  run.distance_correlation = number(s, "distance_correlation");
  run.edge_flops = number(object_in(s, "flops"), "edge");
  run.cloud_flops = number(object_in(s, "flops"), "cloud");
  run.bytes_up = number(object_in(s, "bytes"), "up");
  run.bytes_down = number(object_in(s, "bytes"), "down");
  const json seconds = object_in(s, "seconds");
  for (const auto& [stage, unused] : seconds.items()) {
    if (const Number value = number(seconds, stage.c_str())) run.seconds[stage] = *value;
  }
  for (const json& value : list_in(s, "net_accuracy")) {
    if (value.is_number()) run.net_accuracy.push_back(value.get<double>());
  }
  const auto complete = [&](const char* path, const std::string& value) {
    if (!value.empty()) run.settings.try_emplace(path, value);
  };
  const auto complete_number = [&](const char* path, const Number& value) {
    if (value) complete(path, fmt::format("{}", *value));
  };
  complete("protection.kind", run.protection);
  complete("data.name", run.data);
  complete("model.architecture", run.architecture);
  complete_number("model.width", run.width);
  complete_number("model.head_cells", run.head);
  complete_number("model.tail_cells", run.tail);
  complete_number("ensemble.nets", run.nets);
  complete_number("ensemble.selected", run.selected);
  complete_number("ensemble.sigma", run.sigma);
  complete_number("ensemble.lambda", run.lambda);
}

std::map<std::string, std::string> read_settings(const std::string& config) {
  std::map<std::string, std::string> out;
  for (const auto& [path, value] : config_fields(config)) {
    const bool quoted = value.size() > 1 && value.front() == '"' && value.back() == '"';
    std::string& field = out[path];  // a list is written as one line an element
    field += (field.empty() ? "" : ", ") + (quoted ? value.substr(1, value.size() - 2) : value);
  }
  return out;
}

void read_serve(Run& run, const fs::path& file) {
  const json serve = read_object(file);
  number(serve, "accuracy"), number(serve, "bytes_sent"), number(serve, "bytes_received");
  std::map<std::string, Percentiles> latency;
  const json parts = object_in(serve, "latency_ms");
  for (const auto& [part, unused] : parts.items()) {
    const json value = object_in(parts, part.c_str());
    latency[part] = {number(value, "p50"), number(value, "p95")};
  }
  run.serve = serve;
  run.latency = latency;
}

Run read_one(const fs::path& folder, std::vector<Skipped>& skipped) {
  const RunView view = read_run(folder);
  if (!is_run(folder)) throw Damage("config.txtpb is missing");
  Run run;
  run.info = parse_object(view.info_json, "info.json");
  if (!view.done) throw Damage("not finished: no DONE file (the same training command resumes it)");

  // What is left is damage to metrics.csv: the curves suffer, the results stand.
  if (!view.damage.empty()) skipped.push_back({(folder / "metrics.csv").string(), view.damage});
  run.folder = folder;
  run.name = fs::absolute(folder).lexically_normal().filename().string();
  run.config = view.config_text;
  run.settings = read_settings(run.config);
  run.version = text(run.info, "version");
  run.revision = text(run.info, "revision");
  run.device = text(run.info, "device");
  run.processor = text(run.info, "processor");
  run.started = text(run.info, "started");
  run.command = text(run.info, "command");
  run.seed = number(run.info, "seed");
  run.summary = read_object(folder / "summary.json");
  read_summary(run);

  const auto optional_part = [&](const fs::path& what, auto&& read) {
    try {
      read();
    } catch (const Damage& damage) {
      skipped.push_back({what.string(), damage.what()});
    }
  };
  if (const fs::path file = folder / "serve.json"; fs::exists(file)) {
    optional_part(file, [&] { read_serve(run, file); });
  }
  for (const fs::path& attack : sorted_subfolders(folder / "attack")) {
    optional_part(attack, [&] { run.attacks.push_back(read_attack(attack, skipped)); });
  }

  std::map<std::tuple<std::string, std::string, std::string, double>, std::pair<double, int>> sums;
  for (const Metric& m : view.metrics) {
    if (!std::isfinite(m.value)) continue;
    const std::string net = m.net < 0 ? "ensemble" : fmt::format("net {}", m.net);
    auto& [sum, count] = sums[{m.stage, m.name, net, static_cast<double>(m.epoch + 1)}];
    sum += m.value;
    ++count;
  }
  for (const auto& [key, sum] : sums) {
    const auto& [stage, name, net, epoch] = key;
    run.curves[{stage, name}][net][epoch] = sum.first / sum.second;
  }
  return run;
}

// sweep.json, as it is in the file.
struct SweepFile {
  struct Cell {
    fs::path folder;
    std::string row, status, reason;
    std::map<std::string, std::string> values;  // by path
  };
  Sweep sweep;
  std::vector<Cell> cells;
};

SweepFile read_sweep(const fs::path& file) {
  const json object = read_object(file);
  SweepFile out;
  out.sweep.folder = file.parent_path();
  out.sweep.title = text(object, "title");
  out.sweep.command = text(object, "command");
  for (const json& cell : list_in(object, "cells")) {
    if (!cell.is_object()) throw Damage("field 'cells' holds something else than objects");
    SweepFile::Cell c;
    c.folder = out.sweep.folder / required_text(cell, "folder");  // an absolute one stays
    c.row = text(cell, "row");
    c.status = text(cell, "status", "done");
    c.reason = text(cell, "reason");
    const json values = object_in(cell, "values");
    for (const auto& [path, value] : values.items()) {
      c.values[path] = value.is_string() ? value.get<std::string>() : value.dump();
      out.sweep.paths.insert(path);
    }
    out.cells.push_back(std::move(c));
  }
  out.sweep.cells = std::ssize(out.cells);
  return out;
}

// What a cell without a run would have been: its configuration, as far as it got; else that of a
// run of the same sweep (`settings`, may be empty); then the cell's own values.
void plan(const SweepFile::Cell& cell, std::map<std::string, std::string> settings,
          FailedCell& failed) {
  std::ifstream in(cell.folder / "config.txtpb", std::ios::binary);
  for (const auto& [path, value] : read_settings({std::istreambuf_iterator<char>(in), {}}))
    settings[path] = value;
  for (const auto& [path, value] : cell.values) settings[path] = value;
  const auto numeric = [&](const char* path) {
    try {
      return Number(std::stod(settings[path]));
    } catch (const std::logic_error&) {
      return Number();
    }
  };
  Run run;
  run.data = settings["data.name"];
  run.architecture = settings["model.architecture"];
  run.width = numeric("model.width");
  run.head = numeric("model.head_cells");
  run.tail = numeric("model.tail_cells");
  if (run.data.empty() || run.architecture.empty()) return;
  failed.task = run.task();
  failed.setting = run.setting();
}

// Which cells have a run; the others become rows of their own, and leave the list of what was
// skipped.
void join_sweep(SweepFile& file, Collection& all) {
  std::error_code error;
  std::map<std::string, std::string> sibling;
  for (const SweepFile::Cell& cell : file.cells) {
    const auto same = [&](const fs::path& folder) {
      return fs::weakly_canonical(folder, error) == fs::weakly_canonical(cell.folder, error);
    };
    const std::string said = cell.status + (cell.reason.empty() ? "" : ": " + cell.reason);
    const auto run = std::find_if(all.runs.begin(), all.runs.end(),
                                  [&](const Run& r) { return same(r.folder); });
    if (run != all.runs.end()) {
      if (cell.status != "done") run->note = said;
      sibling = run->settings;
      ++file.sweep.done;
      continue;
    }
    FailedCell failed;
    failed.folder = cell.folder.string();
    failed.title = cell.row;
    for (const auto& [path, value] : cell.values) {
      failed.title += (failed.title.empty() ? "" : ", ") + path_label(path) + " = " + value;
    }
    if (failed.title.empty()) failed.title = cell.folder.filename().string();
    plan(cell, sibling, failed);
    failed.status = cell.status == "done" ? "missing" : cell.status;
    failed.reason = cell.reason;
    std::erase_if(all.skipped, [&](const Skipped& s) {
      if (!same(s.what)) return false;
      if (failed.reason.empty()) failed.reason = s.reason;
      return true;
    });
    if (failed.reason.empty()) failed.reason = "there is no run in its folder";
    all.failed.push_back(std::move(failed));
  }
  all.sweeps.push_back(std::move(file.sweep));
}

void find_runs(const fs::path& folder, std::set<fs::path>& seen, Collection& all,
               std::vector<SweepFile>& sweeps) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    all.skipped.push_back({folder.string(), "no such folder"});
    return;
  }
  if (!seen.insert(fs::weakly_canonical(folder, error)).second) return;  // given twice
  if (fs::exists(folder / "config.txtpb", error) || fs::exists(folder / "info.json", error)) {
    try {
      all.runs.push_back(read_one(folder, all.skipped));
    } catch (const std::exception& damage) {
      all.skipped.push_back({folder.string(), damage.what()});
    }
    return;
  }
  if (const fs::path file = folder / "sweep.json"; fs::exists(file, error)) {
    try {
      sweeps.push_back(read_sweep(file));
    } catch (const std::exception& damage) {
      all.skipped.push_back({file.string(), damage.what()});
    }
  }
  for (const fs::path& inner : sorted_subfolders(folder)) {
    if (!fs::is_symlink(inner, error)) find_runs(inner, seen, all, sweeps);
  }
}

}  // namespace

Collection read_folders(const std::vector<fs::path>& folders) {
  Collection all;
  std::set<fs::path> seen;
  std::vector<SweepFile> sweeps;
  for (const fs::path& folder : folders) find_runs(folder, seen, all, sweeps);
  for (SweepFile& sweep : sweeps) join_sweep(sweep, all);
  return all;
}

}  // namespace ens::report
