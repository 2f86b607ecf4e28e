#include "lab/report_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <fstream>
#include <iterator>
#include <set>
#include <stdexcept>
#include <tuple>

#include "ensemble/train/run_dir.h"

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
  a.error = text(a.raw, "error");
  a.best_of = static_cast<int64_t>(number(a.raw, "best_of").value_or(1));
  a.scored_images = static_cast<int64_t>(number(a.raw, "scored_images").value_or(0));
  a.ssim = interval(a.raw, "ssim");
  a.psnr = interval(a.raw, "psnr");
  a.mse = interval(a.raw, "mse");
  a.own = score(object_in(a.raw, "own"));
  const json negative = object_in(a.raw, "negative");
  a.negative = score(negative);
  a.negative_better = flag(negative, "better");
  a.shadow_accuracy = number(a.raw, "shadow_accuracy");
  a.seconds = number(a.raw, "seconds");
  for (const json& part : list_in(a.raw, "parts")) {
    if (!part.is_object()) throw Damage("field 'parts' holds something else than objects");
    a.parts.push_back({text(part, "name"), score(part)});
  }
  if (a.error.empty() && !a.ssim) throw Damage("result.json has neither an SSIM nor an error");
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

void find_runs(const fs::path& folder, std::set<fs::path>& seen, Collection& all) {
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
  for (const fs::path& inner : sorted_subfolders(folder)) {
    if (!fs::is_symlink(inner, error)) find_runs(inner, seen, all);
  }
}

// What must agree for two runs to be compared. The bytes sent stand for the pool in the stem and
// the image size.
auto setting_key(const Run& r) {
  return std::tie(r.data, r.train_images, r.architecture, r.width, r.head, r.tail, r.bytes_up);
}

// The unprotected run of the same setting, with the same seed if there is one.
int find_baseline(const std::vector<Run>& runs, const Run& run) {
  int found = -1;
  for (size_t i = 0; i < runs.size(); ++i) {
    const Run& other = runs[i];
    if (other.protection != "none" || setting_key(other) != setting_key(run)) continue;
    if (&other == &run) return static_cast<int>(i);
    if (found < 0 || (other.seed == run.seed && runs[found].seed != run.seed)) {
      found = static_cast<int>(i);
    }
  }
  return found;
}

Number share(const Attack* attack, const Attack* oracle) {
  if (!attack || !oracle || oracle->ssim->mean <= 0) return {};
  return attack->ssim->mean / oracle->ssim->mean;
}

void compare(std::vector<Run>& runs) {
  for (Run& run : runs) {
    run.baseline = find_baseline(runs, run);
    const Run* none = run.baseline < 0 ? nullptr : &runs[run.baseline];
    if (none && run.accuracy && none->accuracy)
      run.accuracy_change = *run.accuracy - *none->accuracy;
    for (Attack& a : run.attacks) {
      if (!a.ssim) continue;
      a.of_oracle = share(&a, run.attack("oracle"));
      if (!none) continue;
      const Attack* alone = none->attack(a.kind);
      // Against one net the adaptive and the subset attacks are the N = 1 attack.
      if (!alone && a.kind.rfind("shadow-", 0) == 0 && none->nets == 1.0) {
        alone = none->attack("shadow-n1");
        if (alone) a.calibrated_by = alone->title;
      }
      a.strength = share(alone, none->attack("oracle"));
    }
  }
  for (Run& run : runs) {
    std::stable_sort(run.attacks.begin(), run.attacks.end(), [](const Attack& a, const Attack& b) {
      if (a.is_oracle() != b.is_oracle()) return a.is_oracle();
      return a.best_ssim().value_or(-2) > b.best_ssim().value_or(-2);
    });
  }
}

std::string capitalised(std::string word) {
  if (!word.empty()) word[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(word[0])));
  return word;
}

}  // namespace

Number Attack::best_ssim() const {
  if (!error.empty() || !ssim) return {};
  return negative_better && negative.ssim ? std::max(ssim->mean, *negative.ssim) : ssim->mean;
}

const char* Attack::strength_word() const {
  if (is_oracle()) return "upper bound";
  return !strength ? "not calibrated" : weak() ? "weak attacker" : "strong enough";
}

const Attack* Run::attack(const std::string& kind) const {
  for (const Attack& a : attacks) {
    if (a.kind == kind && a.error.empty() && a.ssim) return &a;
  }
  return nullptr;
}

std::string Run::title() const {
  if (protection == "none") return "No protection";
  if (protection == "single") return "Single (noise, retrained)";
  std::string title = capitalised(protection);
  if (nets) title += fmt::format(", N = {}", *nets);
  if (selected) title += fmt::format(", P = {}", *selected);
  return title;
}

std::string Run::setting() const {
  std::string out = data + ", " + architecture;
  if (width) out += fmt::format(" width {}", *width);
  if (head && tail) out += fmt::format(", split h = {}, t = {}", *head, *tail);
  return out;
}

Collection collect(const std::vector<fs::path>& folders) {
  Collection all;
  std::set<fs::path> seen;
  for (const fs::path& folder : folders) find_runs(folder, seen, all);
  std::stable_sort(all.runs.begin(), all.runs.end(), [](const Run& a, const Run& b) {
    const auto order = [](const Run& r) {
      return r.protection == "none" ? 0 : r.protection == "single" ? 1 : 2;
    };
    return std::pair(order(a), a.folder) < std::pair(order(b), b.folder);
  });
  compare(all.runs);
  return all;
}

}  // namespace ens::report
