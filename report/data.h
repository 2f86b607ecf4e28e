// What a report is made of: finished run folders, read and compared with each other. Internal to
// the report, the advice and their tests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace ens::report {

using Number = std::optional<double>;  // missing, null and not finite all mean "not known"

struct Interval {
  double mean = 0;
  Number low, high;  // of one run: bootstrap 95 %; of several seeds: the smallest and the largest
};

// SSIM in [-1, 1], PSNR in dB.
struct Score {
  Number ssim, psnr;
};

struct Part {
  std::string name;  // "net 0", "restart 2", "m = 100"
  Score score;
  Number merit;  // the attacker's own criterion, higher is better
  Number x;      // a point of a curve: the number m of known pairs
};

// One RUN/attack/<name>/ folder.
struct Attack {
  std::string folder, kind, title, level, chosen_by;
  std::string metric = "default";  // default or he19; numbers of two metrics are never compared
  std::string error, pointless;    // why there are no numbers: it failed, it does not apply
  int64_t best_of = 1, scored_images = 0;
  std::optional<Interval> ssim, psnr, mse;
  // By a reference classifier, shares of the pictures; and how much of the originals it recognises.
  std::optional<Interval> recognised, reidentified;
  Number originals_recognised;
  Score own;       // the decoder on the shadow's own features
  Score negative;  // against the luminance negative
  bool negative_better = false;
  Number shadow_accuracy, seconds;
  std::vector<Part> parts;
  std::optional<Part> own_pick;                  // what the attacker would choose without the truth
  std::string original_png, reconstruction_png;  // file contents; empty if there is none
  nlohmann::json raw;

  // Derived: SSIM as a share of the same run's oracle, and the strength of this attack: its share
  // of the oracle against no protection at the same setting. Not known: "not calibrated".
  Number of_oracle, strength;
  std::string calibrated_by;  // the attack that gave `strength` when it is another one

  bool is_oracle() const { return kind == "oracle"; }
  bool has_numbers() const { return error.empty() && pointless.empty() && ssim; }
  bool has_pictures() const { return !original_png.empty() && !reconstruction_png.empty(); }
  bool is_curve() const;  // the parts are points of a curve, not alternatives
  bool with_truth() const { return best_of > 1 && !is_curve(); }  // the truth chose among several
  bool weak() const { return strength && *strength < kStrongShare; }
  // What a person would recognise: the negative counts where it is the better picture.
  Number best_ssim() const;
  const char* strength_word() const;

  static constexpr double kStrongShare = 0.8;  // the gate: 80 % of the oracle
};

struct Percentiles {
  Number p50, p95;  // milliseconds
};

// metrics.csv by (stage, metric name), then by net: epoch (or step, if no epoch is given) -> mean.
using Curves =
    std::map<std::pair<std::string, std::string>, std::map<std::string, std::map<double, double>>>;

// One finished run folder.
struct Run {
  std::filesystem::path folder;
  std::string name;  // the folder's own name
  std::string config, command, version, revision, device, processor, started;
  std::string protection, architecture, data;
  // The configuration by path ("model.head_cells" -> "1"), texts without their quotes; completed
  // from summary.json where the file lacks a field.
  std::map<std::string, std::string> settings;
  std::string note;   // what a sweep has to say of it although it is finished
  std::string label;  // title(), with whatever tells it from others of the same title
  Number seed, nets, selected, sigma, lambda, width, head, tail;
  Number train_images, test_images, accuracy, similarity, snr, distance_correlation, edge_flops,
      cloud_flops, bytes_up, bytes_down;
  std::map<std::string, double> seconds;  // by stage
  std::vector<double> net_accuracy;
  nlohmann::json info, summary, serve;  // as they were in the folder; serve null if absent
  std::map<std::string, Percentiles> latency;
  Curves curves;
  std::vector<Attack> attacks;  // the oracle first, then in the order of what the attacker knows

  int baseline = -1;       // index of the unprotected run of the same setting, -1 if there is none
  Number accuracy_change;  // against that run; 0..1

  // One with numbers, or null. An empty metric is any.
  const Attack* attack(const std::string& kind, const std::string& metric = "") const;
  std::string metric() const;           // the one to speak of: default if there are such numbers
  std::string protection_name() const;  // "DR-single"
  std::string title() const;            // "Ensembler, N = 4, P = 2"
  std::string task() const;             // "cifar10, resnet18 width 16"
  std::string setting() const;          // "cifar10, resnet18 width 16, split h = 1, t = 1"
  Number edge_ms() const;               // median of head and tail, as served
};

// The strongest attack with numbers in `run.metric()` that is not the oracle; null if none.
const Attack* strongest(const Run& run);
// Whether a low number of this attack says something about the protection: it is strong against no
// protection, or it came within kClose of the oracle here.
bool proved(const Run& run, const Attack& attack);
inline constexpr double kClose = 0.05;  // SSIM

// A cell of a sweep that has no finished run.
struct FailedCell {
  std::string folder, title;
  std::string task, setting;   // as Run's; empty if not known
  std::string status, reason;  // status: failed, skipped, missing
};

struct Sweep {
  std::filesystem::path folder;
  std::string title, command;
  std::set<std::string> paths;  // of the configuration that its cells vary
  int64_t cells = 0, done = 0;
};

// One attack over the runs of a row.
struct RowAttack {
  std::string folder, kind, title, level, metric;
  std::vector<std::pair<int, int>> members;  // (run, attack in it), those with numbers
  std::optional<Interval> ssim, psnr;
  Number own_pick;                  // SSIM of the attacker's own picks
  Number best_ssim, worst_case;     // with the luminance negative; the largest of any seed
  Number of_oracle, strength;       // means
  Number recognised, reidentified;  // means
  bool with_truth = false;          // in any run
  bool weak() const { return strength && *strength < Attack::kStrongShare; }
  std::string error, pointless;  // why there are no numbers in any run
};

// Runs that differ in nothing but the seed: one line of the tables.
struct Row {
  std::vector<int> runs;
  std::string title;  // with whatever tells it from the other rows of its setting
  std::optional<Interval> accuracy, change;
  Number edge_ms, edge_flops, bytes_up, bytes_down;
  std::vector<RowAttack> attacks;
  const RowAttack* attack(const std::string& kind, const std::string& metric) const;
};

// What can be compared: one data set, model and split.
struct Setting {
  std::string task, title;  // Run::task(), Run::setting() and what else tells it apart
  std::vector<Row> rows;
  std::vector<int> failed;  // indices into Collection::failed
};

struct Skipped {
  std::string what, reason;
};

struct Collection {
  std::vector<Run> runs;  // by setting, protection, folder
  std::vector<Setting> settings;
  std::vector<Sweep> sweeps;
  std::vector<FailedCell> failed;
  std::vector<Skipped> skipped;

  const Run& first(const Row& row) const { return runs[static_cast<size_t>(row.runs[0])]; }
  const Attack& at(std::pair<int, int> member) const {
    return runs[static_cast<size_t>(member.first)].attacks[static_cast<size_t>(member.second)];
  }
};

// Reads every run folder at or below the given ones, and the sweep.json of sweeps among them.
// Whatever cannot be read is named in `skipped`; nothing is thrown for it.
Collection collect(const std::vector<std::filesystem::path>& folders);

// The first half of collect(): what the folders say, nothing compared.
Collection read_folders(const std::vector<std::filesystem::path>& folders);

// What makes two runs the same experiment, but for the seed, where the data lie, the attacks, and
// the fields named.
std::string identity(const Run& run, const std::set<std::string>& but_for = {});
// A field of the configuration as people call it: "ensemble.lambda" -> "λ".
std::string path_label(const std::string& path);

// The same as tables for programs: one CSV row per run and attack; a JSON of everything.
std::string as_csv(const Collection& all);
std::string as_json(const Collection& all);
// The main table and the comparison with published numbers, as GitHub writes tables.
std::string as_markdown(const Collection& all);

}  // namespace ens::report
