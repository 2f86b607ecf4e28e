// What a report is made of: finished run folders, read and compared with each other. Internal to
// the report and its tests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ens::report {

using Number = std::optional<double>;  // missing, null and not finite all mean "not known"

struct Interval {
  double mean = 0;
  Number low, high;  // bootstrap 95 %
};

// SSIM in [-1, 1], PSNR in dB.
struct Score {
  Number ssim, psnr;
};

struct Part {
  std::string name;  // "net 0", "restart 2"
  Score score;
};

// One RUN/attack/<name>/ folder.
struct Attack {
  std::string folder, kind, title, level, chosen_by, error;
  int64_t best_of = 1, scored_images = 0;
  std::optional<Interval> ssim, psnr, mse;
  Score own;       // the decoder on the shadow's own features
  Score negative;  // against the luminance negative
  bool negative_better = false;
  Number shadow_accuracy, seconds;
  std::vector<Part> parts;
  std::string original_png, reconstruction_png;  // file contents; empty if there is none
  nlohmann::json raw;

  // Derived: SSIM as a share of the same run's oracle, and the strength of this attack: its share
  // of the oracle against no protection at the same setting. Not known: "not calibrated".
  Number of_oracle, strength;
  std::string calibrated_by;  // the attack that gave `strength` when it is another one

  bool is_oracle() const { return kind == "oracle"; }
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
  Number seed, nets, selected, sigma, lambda, width, head, tail;
  Number train_images, test_images, accuracy, similarity, edge_flops, cloud_flops, bytes_up,
      bytes_down;
  std::map<std::string, double> seconds;  // by stage
  std::vector<double> net_accuracy;
  nlohmann::json info, summary, serve;  // as they were in the folder; serve null if absent
  std::map<std::string, Percentiles> latency;
  Curves curves;
  std::vector<Attack> attacks;  // the oracle first, then the strongest first

  int baseline = -1;       // index of the unprotected run of the same setting, -1 if there is none
  Number accuracy_change;  // against that run; 0..1

  const Attack* attack(const std::string& kind) const;  // one with numbers, or null
  std::string title() const;                            // "Ensembler, N = 4, P = 2"
  std::string setting() const;                          // "cifar10, resnet18 width 16, split 1/1"
};

struct Skipped {
  std::string what, reason;
};

struct Collection {
  std::vector<Run> runs;  // unprotected runs first, then by folder
  std::vector<Skipped> skipped;
};

// Reads every run folder at or below the given ones. Whatever cannot be read is named in `skipped`;
// nothing is thrown for it.
Collection collect(const std::vector<std::filesystem::path>& folders);

// The same as tables for programs: one CSV row per run and attack; a JSON of everything.
std::string as_csv(const Collection& all);
std::string as_json(const Collection& all);

}  // namespace ens::report
