// SPDX-License-Identifier: Apache-2.0
// Reading run folders and sweeps; nothing is compared here.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <stdexcept>
#include <tuple>

#include "base/files.h"
#include "experiment/run_dir.h"
#include "report/data.h"

namespace ens::report {
namespace {

namespace fs = std::filesystem;

// The reason why a folder or file is left out; caught in this file.
struct Damage : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// An image is optional; one that is not a PNG is damage.
std::string read_png(const fs::path& file) {
  if (!fs::exists(file)) return {};
  std::string bytes = read_file(file);
  if (bytes.size() < 33 || bytes.compare(0, 8, "\x89PNG\r\n\x1a\n") != 0 ||
      bytes.compare(12, 4, "IHDR") != 0) {
    throw Damage(file.filename().string() + " is not a PNG image");
  }
  return bytes;
}

Attack read_attack(const fs::path& folder, Detail detail, std::vector<Skipped>& skipped) {
  Attack a;
  a.folder = folder.filename().string();
  results::AttackResult& r = a.result;
  results::read(folder / "result.json", r);
  if (!r.has_attack()) r.set_attack(a.folder);
  if (!r.has_title()) r.set_title(r.attack());
  if (!r.has_metric()) r.set_metric("default");
  if (!r.has_best_of()) r.set_best_of(1);
  const bool of_text = r.has_auc() || r.text_size() > 0;
  if (r.error().empty() && r.pointless().empty() && !r.ssim().has_mean() && !of_text)
    throw Damage("result.json has neither an SSIM nor an error");
  if (detail == Detail::kNumbers) return a;
  try {
    a.original_png = read_png(folder / "original.png");
    a.reconstruction_png = read_png(folder / "reconstruction.png");
  } catch (const std::exception& damage) {  // the numbers stand without the images
    a.original_png.clear();
    a.reconstruction_png.clear();
    skipped.push_back({folder.string() + " (images)", damage.what()});
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
  results::RunSummary& s = run.summary;
  results::read(run.folder / "summary.json", s);
  if (s.protection().empty()) throw Damage("summary.json: field 'protection' is missing");
  if (s.data().empty()) throw Damage("summary.json: field 'data' is missing");
  if (!s.has_architecture()) s.set_architecture("unknown model");
  run.settings.try_emplace("protection.kind", s.protection());
  run.settings.try_emplace("data.name", s.data());
  run.settings.try_emplace("model.architecture", s.architecture());
  for (const auto& [path, field] : {std::pair("model.width", "width"),
                                    {"model.head_cells", "split.head"},
                                    {"model.tail_cells", "split.tail"},
                                    {"ensemble.nets", "nets"},
                                    {"ensemble.selected", "selected"},
                                    {"ensemble.sigma", "sigma"},
                                    {"ensemble.lambda", "lambda"}}) {
    if (const Maybe value = run.get(field))
      run.settings.try_emplace(path, fmt::format("{}", *value));
  }
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

Run read_one(const fs::path& folder, Detail detail, std::vector<Skipped>& skipped) {
  const RunView view = read_run(folder, detail == Detail::kAll);
  if (!is_run(folder)) throw Damage("config.txtpb is missing");
  if (!view.info) throw Damage(view.damage);
  if (!view.done) throw Damage("not finished: no DONE file (the same training command resumes it)");

  // What is left is damage to metrics.csv: the curves suffer, the results stand.
  if (!view.damage.empty()) skipped.push_back({(folder / "metrics.csv").string(), view.damage});
  Run run;
  run.folder = folder;
  run.name = fs::absolute(folder).lexically_normal().filename().string();
  run.info = *view.info;
  run.config = view.config_text;
  run.settings = read_settings(run.config);
  read_summary(run);

  const auto optional_part = [&](const fs::path& what, auto&& read) {
    try {
      read();
    } catch (const std::exception& damage) {
      skipped.push_back({what.string(), damage.what()});
    }
  };
  if (const fs::path file = folder / "serve.json"; fs::exists(file)) {
    optional_part(file, [&] {
      results::ServingSummary serving;
      results::read(file, serving);
      run.serving = serving;
    });
  }
  if (const fs::path file = folder / "certificate.json"; fs::exists(file)) {
    optional_part(file, [&] {
      results::Certificate certificate;
      results::read(file, certificate);
      run.certificate = certificate;
    });
  }
  for (const fs::path& attack : sorted_subfolders(folder / "attack")) {
    optional_part(attack, [&] { run.attacks.push_back(read_attack(attack, detail, skipped)); });
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

using Cell = results::SweepState::Cell;

Sweep read_sweep(const fs::path& file) {
  Sweep sweep;
  sweep.folder = file.parent_path();
  results::read(file, sweep.state);
  for (Cell& cell : *sweep.state.mutable_cells()) {
    if (cell.folder().empty()) throw Damage("sweep.json: field 'folder' of a cell is missing");
    if (!cell.has_status()) cell.set_status("done");
    for (const auto& [path, value] : cell.values()) sweep.paths.insert(path);
  }
  return sweep;
}

// What a cell without a run would have been: its configuration, as far as it got; else that of a
// run of the same sweep (`settings`, may be empty); then the cell's own values.
void plan(const fs::path& folder, const std::map<std::string, std::string>& values,
          std::map<std::string, std::string> settings, FailedCell& failed) {
  const std::string config = read_file_if_there(folder / "config.txtpb").value_or("");
  for (const auto& [path, value] : read_settings(config)) settings[path] = value;
  for (const auto& [path, value] : values) settings[path] = value;
  Run run;
  results::RunSummary& s = run.summary;
  const auto number = [&](const char* path, const std::function<void(int)>& set) {
    int value = 0;
    const std::string& text = settings[path];
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc()) set(value);
  };
  s.set_data(settings["data.name"]);
  s.set_architecture(settings["model.architecture"]);
  number("model.width", [&](int width) { s.set_width(width); });
  number("model.head_cells", [&](int cells) { s.mutable_split()->set_head(cells); });
  number("model.tail_cells", [&](int cells) { s.mutable_split()->set_tail(cells); });
  if (s.data().empty() || s.architecture().empty()) return;
  failed.task = run.task();
  failed.setting = run.setting();
}

// Which cells have a run; the others become rows of their own, and leave the list of what was
// skipped.
void join_sweep(Sweep sweep, const std::map<fs::path, Run*>& by_folder, ReportData& all) {
  std::error_code error;
  std::map<std::string, std::string> sibling;
  for (const Cell& cell : sweep.state.cells()) {
    const fs::path folder = sweep.folder / cell.folder();  // an absolute one stays
    const auto same = [&](const fs::path& other) {
      return fs::weakly_canonical(other, error) == fs::weakly_canonical(folder, error);
    };
    const auto found = by_folder.find(fs::weakly_canonical(folder, error));
    if (found != by_folder.end()) {
      Run* run = found->second;
      if (cell.status() != "done")
        run->note = cell.status() + (cell.reason().empty() ? "" : ": " + cell.reason());
      sibling = run->settings;
      ++sweep.done;
      continue;
    }
    FailedCell failed;
    failed.folder = folder.string();
    failed.title = cell.row();
    failed.values = {cell.values().begin(), cell.values().end()};
    for (const auto& [path, value] : failed.values) {
      failed.title += (failed.title.empty() ? "" : ", ") + path_label(path) + " = " + value;
    }
    if (failed.title.empty()) failed.title = folder.filename().string();
    plan(folder, failed.values, sibling, failed);
    failed.status = cell.status() == "done" ? "missing" : cell.status();
    failed.reason = cell.reason();
    std::erase_if(all.skipped, [&](const Skipped& s) {
      if (!same(s.what)) return false;
      if (failed.reason.empty()) failed.reason = s.reason;
      return true;
    });
    if (failed.reason.empty()) failed.reason = "there is no run in its folder";
    all.failed.push_back(std::move(failed));
  }
  all.sweeps.push_back(std::move(sweep));
}

void find_runs(const fs::path& folder, Detail detail, std::set<fs::path>& seen, ReportData& all,
               std::vector<Sweep>& sweeps) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    all.skipped.push_back({folder.string(), "no such folder"});
    return;
  }
  if (!seen.insert(fs::weakly_canonical(folder, error)).second) return;  // given twice
  if (fs::exists(folder / "config.txtpb", error) || fs::exists(folder / "info.json", error)) {
    try {
      all.runs.push_back(read_one(folder, detail, all.skipped));
    } catch (const std::exception& damage) {
      all.skipped.push_back({folder.string(), damage.what()});
    }
    if (const fs::path inside = folder / "blinded"; fs::is_directory(inside, error))
      find_runs(inside, detail, seen, all,
                sweeps);  // of the same network (`ensembler offload attack`)
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
    if (!fs::is_symlink(inner, error)) find_runs(inner, detail, seen, all, sweeps);
  }
}

}  // namespace

ReportData read_folders(const std::vector<fs::path>& folders, Detail detail) {
  ReportData all;
  std::set<fs::path> seen;
  std::vector<Sweep> sweeps;
  for (const fs::path& folder : folders) find_runs(folder, detail, seen, all, sweeps);
  std::error_code error;
  std::map<fs::path, Run*> by_folder;
  for (Run& run : all.runs) by_folder.emplace(fs::weakly_canonical(run.folder, error), &run);
  for (Sweep& sweep : sweeps) join_sweep(std::move(sweep), by_folder, all);
  return all;
}

}  // namespace ens::report
