// SPDX-License-Identifier: Apache-2.0
// What a report is made of: finished run folders, read and compared with each other. Internal to
// the report, the advice and their tests.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "proto/results.h"
#include "proto/results.pb.h"

namespace ens::report {

using Maybe = std::optional<double>;  // missing, null and not finite all mean "not known"
using results::Interval;              // not known without a mean; over seeds: smallest and largest
using results::number;

// What an attack's numbers are worth; docs/lab.md has the rules. In this order.
enum class Strength { kFailed, kWeak, kNotCalibrated, kStrong };
const char* name(Strength strength);  // "failed", "weak", "not calibrated", "strong"

// One RUN/attack/<name>/ folder.
struct Attack {
  std::string folder;
  // Always with attack, title, metric and best_of. An attacker who reads nothing from the features
  // can still show what the floor shows: where the floor has the higher SSIM, its numbers are here.
  results::AttackResult result;
  std::string original_png, reconstruction_png;  // file contents; empty if there is none

  // Derived: its own SSIM where the floor's is higher; SSIM as a share of that of the decoder on
  // true features, here and, of the same attack, against no protection at the same setting. Not
  // known where that decoder is too weak to measure by.
  Maybe below_floor, of_oracle, of_oracle_unprotected;
  Strength strength = Strength::kNotCalibrated;
  std::string why;  // it is failed, weak or not calibrated

  const std::string& kind() const { return result.attack(); }
  const std::string& metric() const { return result.metric(); }  // numbers of two never compared
  double ssim() const { return result.ssim().mean(); }           // with numbers only
  bool is_oracle() const { return kind() == "oracle"; }          // the decoder on true features
  // What features hold at most: a decoder on them that was grown until it stopped gaining.
  bool is_upper_bound() const { return is_oracle() && result.saturated(); }
  bool has_numbers() const {
    return result.error().empty() && result.pointless().empty() && result.ssim().has_mean();
  }
  bool has_pictures() const { return !original_png.empty() && !reconstruction_png.empty(); }
  bool is_curve() const;  // the parts are points of a curve, not alternatives
  // The truth chose among several.
  bool with_truth() const { return result.best_of() > 1 && !is_curve(); }
  bool is_floor() const { return result.level() == "blind"; }
  // As a yardstick: not for a decoder on true features that failed or is beaten by who knows less.
  bool can_measure() const { return has_numbers() && strength > Strength::kWeak; }
  // What a person would recognise: the negative counts where it is the better image.
  Maybe best_ssim() const;
  std::string negative_name() const;  // of its best negative: "luminance negative"
  std::string strength_word() const;  // also "floor", "upper bound", "too weak to measure by"

  static constexpr double kStrongShare = 0.8;  // the gate: 80 % of the decoder on true features
};

// metrics.csv by (stage, metric name), then by net: epoch (or step, if no epoch is given) -> mean.
using Curves =
    std::map<std::pair<std::string, std::string>, std::map<std::string, std::map<double, double>>>;

// One finished run folder.
struct Run {
  std::filesystem::path folder;
  std::string name;  // the folder's own name
  results::RunInfo info;
  results::RunSummary summary;  // always with protection, data and architecture
  std::optional<results::ServingSummary> serving;
  std::optional<results::Certificate> certificate;
  std::string config;
  // The configuration by path ("model.head_cells" -> "1"), texts without their quotes; completed
  // from summary.json where the file lacks a field.
  std::map<std::string, std::string> settings;
  Curves curves;
  std::vector<Attack> attacks;  // the oracle first, then in the order of what the attacker knows

  std::string note;       // what a sweep has to say of it although it is finished
  std::string label;      // title(), with whatever tells it from others of the same title
  int baseline = -1;      // index of the unprotected run of the same setting, -1 if there is none
  Maybe accuracy_change;  // against that run; 0..1

  const std::string& protection() const { return summary.protection(); }
  bool is_protected() const;
  Maybe seed() const { return number(info, "seed"); }
  // A number of the summary by its path: "accuracy", "split.head".
  Maybe get(const char* path) const { return number(summary, path); }
  // Median or 95th percentile of a part of serving, in milliseconds: "total", "p50".
  Maybe latency(const std::string& part, const char* percentile = "p50") const;
  // One with numbers, or null. An empty metric is any.
  const Attack* attack(const std::string& kind, const std::string& metric = "") const;
  std::string metric() const;           // the one to speak of: default if there are such numbers
  std::string protection_name() const;  // "DR-single"
  std::string title() const;            // "Ensembler, N = 4, P = 2"
  std::string task() const;             // "cifar10, resnet18 width 16"
  std::string setting() const;          // "cifar10, resnet18 width 16, split h = 1, t = 1"
  Maybe edge_ms() const;                // median of head and tail, as served
};

// The strongest attack with numbers in `run.metric()`; no floor, nor the decoder on true features;
// null if none.
const Attack* strongest(const Run& run);
inline constexpr double kNearOracle = 0.05;  // SSIM

// Of several values that are known: their mean, the smallest and the largest.
class Spread {
 public:
  void add(const Maybe& value) {
    if (!value) return;
    low_ = count_ ? std::min(low_, *value) : *value;
    high_ = count_ ? std::max(high_, *value) : *value;
    sum_ += *value;
    ++count_;
  }
  Maybe mean() const { return count_ ? Maybe(sum_ / count_) : Maybe(); }
  Maybe largest() const { return count_ ? Maybe(high_) : Maybe(); }
  // Without a range of one value alone.
  Interval interval() const {
    Interval out;
    if (count_) out.set_mean(sum_ / count_);
    if (count_ > 1) out.set_low(low_), out.set_high(high_);
    return out;
  }

 private:
  double sum_ = 0, low_ = 0, high_ = 0;
  int count_ = 0;
};

// A cell of a sweep that has no finished run.
struct FailedCell {
  std::string folder, title;
  std::string task, setting;                  // as Run's; empty if not known
  std::string status, reason;                 // status: failed, skipped, missing
  std::map<std::string, std::string> values;  // of the axes of its sweep
};

struct Sweep {
  std::filesystem::path folder;
  results::SweepState state;
  std::set<std::string> paths;  // of the configuration that its cells vary
  int done = 0;                 // cells with a run
};

// One attack over the runs of a row.
struct SeedGroupAttack {
  std::string folder, kind, title, level, metric;
  std::vector<std::pair<int, int>> members;  // (run, attack in it), those with numbers
  Interval ssim, psnr;
  Maybe own_pick;                                 // SSIM of the attacker's own picks
  Interval best_ssim;                             // with the negative
  Maybe worst_case;                               // its largest of any seed
  Maybe of_oracle, of_oracle_unprotected;         // means
  Strength strength = Strength::kNotCalibrated;   // the median of its members
  Maybe recognition_rate, reidentification_rate;  // means, by the reference classifier
  bool with_truth = false;                        // in any run
  std::string strength_word;                      // of the member in the middle
  std::string error, pointless;                   // why there are no numbers in any run
};

// Runs that differ in nothing but the seed: one line of the tables.
struct SeedGroup {
  std::vector<int> runs;
  std::string title;  // with whatever tells it from the other rows of its setting
  Interval accuracy, change;
  Maybe edge_ms, edge_flops, bytes_up, bytes_down;
  Maybe rounds;  // of blinded inference
  std::vector<SeedGroupAttack> attacks;
  const SeedGroupAttack* attack(const std::string& kind, const std::string& metric) const;
};

// What can be compared: one data set, model and split.
struct Comparison {
  std::string task, title;  // Run::task(), Run::setting() and what else tells it apart
  std::vector<SeedGroup> rows;
  std::vector<int> failed;  // indices into ReportData::failed
};

struct Skipped {
  std::string what, reason;
};

struct ReportData {
  std::vector<Run> runs;        // by setting, protection, folder
  std::vector<Run> disguised;   // disguised trainings, by data, model and method: no part of `runs`
  std::vector<Run> translated;  // translations, by protection and layers on the client, likewise
  std::vector<Comparison> comparisons;
  std::vector<Sweep> sweeps;
  std::vector<FailedCell> failed;
  std::vector<Skipped> skipped;

  const Run& first(const SeedGroup& row) const { return runs[static_cast<size_t>(row.runs[0])]; }
  const Attack& at(std::pair<int, int> member) const {
    return runs[static_cast<size_t>(member.first)].attacks[static_cast<size_t>(member.second)];
  }
};

// How much of a run folder is read: everything, or the numbers without images and curves.
enum class Detail { kAll, kNumbers };

// Reads every run folder at or below the given ones, and the sweep.json of sweeps among them.
// Whatever cannot be read is named in `skipped`; nothing is thrown for it.
ReportData collect(const std::vector<std::filesystem::path>& folders, Detail detail = Detail::kAll);

// The first half of collect(): what the folders say, nothing compared.
ReportData read_folders(const std::vector<std::filesystem::path>& folders,
                        Detail detail = Detail::kAll);

// What makes two runs the same experiment, but for the seed, where the data lie, the attacks, and
// the fields named.
std::string identity(const Run& run, const std::set<std::string>& but_for = {});
// A field of the configuration as people call it: "ensemble.lambda" -> "λ".
std::string path_label(const std::string& path);

// A method of disguised training with its settings: "RMT, 4x4 blocks".
std::string disguise_title(const results::RunSummary::Disguise& disguise);
// Of a disguised training: whether the attack reads plain images in a run with the same data,
// classifier and training, and how accurate that run's classifier is.
bool reads_plain(const ReportData& all, const Run& run, const Attack& attack);
Maybe plain_accuracy(const ReportData& all, const Run& run);
// The words of NeuraCrypt's challenge for a share of originals that are found. `strong`: the
// attacks read plain images.
const char* verdict_word(double rank1, bool strong);

// The same as tables for programs: one CSV row per run and attack; a JSON of everything.
std::string as_csv(const ReportData& all);
std::string as_json(const ReportData& all);
// The main table and the comparison with published numbers, as GitHub writes tables.
std::string as_markdown(const ReportData& all);
// The matrix of disguised training likewise; empty without any.
std::string disguise_markdown(const ReportData& all);
// What was read of translations likewise.
std::string text_markdown(const ReportData& all);
// The main table for LaTeX, one `table` a setting (package booktabs).
std::string as_latex(const ReportData& all);

}  // namespace ens::report
