// SPDX-License-Identifier: Apache-2.0
#include "lab/scores.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <numeric>

#include "base/error.h"
#include "base/files.h"
#include "base/strings.h"
#include "lab/results.h"
#include "proto/results.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRepeat = "repeat the attack: ensembler attack --rerun";

// SSIM by image, the mean over the seeds.
std::map<int64_t, double> read_ssim(const fs::path& file) {
  std::vector<std::string> lines = split_text(read_file(file), '\n');
  if (lines.empty()) fail(file.string() + " is empty", "", kRepeat);
  const std::vector<std::string> names = split_text(lines[0], ',');
  const auto column = [&](const char* name) {
    const auto at = std::ranges::find(names, name) - names.begin();
    if (at == std::ssize(names)) fail(file.string() + " has no column " + name, "", kRepeat);
    return static_cast<size_t>(at);
  };
  const size_t image = column("image"), ssim = column("ssim");
  std::map<int64_t, std::pair<double, int>> sums;
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::vector<std::string> cells = split_text(lines[i], ',');
    const auto read = [&](size_t cell, auto& value) {
      const std::string text = cell < cells.size() ? cells[cell] : "";
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      if (error != std::errc() || end != text.data() + text.size()) {
        fail(fmt::format("line {} of {} is damaged", i + 1, file.string()), "", kRepeat);
      }
    };
    int64_t index = 0;
    double value = 0;
    read(image, index), read(ssim, value);
    auto& [sum, count] = sums[index];
    sum += value, ++count;
  }
  std::map<int64_t, double> out;
  for (const auto& [index, sum] : sums) out[index] = sum.first / sum.second;
  return out;
}

std::vector<std::string> attacks_of(const fs::path& run) {
  std::vector<std::string> out;
  for (const fs::path& file : result_files(run))
    out.push_back(file.parent_path().filename().string());
  return out;
}

AttackComparison compare_attack(const fs::path (&runs)[2], const std::string& attack) {
  AttackComparison out;
  out.attack = attack;
  std::map<int64_t, double> ssim[2];
  results::AttackResult result[2];
  for (int i = 0; i < 2; ++i) {
    const fs::path folder = runs[i] / "attack" / attack;
    results::read(folder / "result.json", result[i]);
    const results::AttackResult& r = result[i];
    if (!r.error().empty()) out.missing = "it failed in " + runs[i].string() + ": " + r.error();
    if (!r.pointless().empty())
      out.missing = "it does not apply to " + runs[i].string() + ": " + r.pointless();
    if (!out.missing.empty()) return out;
    if (!fs::exists(folder / kScoresFile)) {
      out.missing = (folder / kScoresFile).string() +
                    " is missing, an older version did not write it; " + kRepeat;
      return out;
    }
    ssim[i] = read_ssim(folder / kScoresFile);
    out.at_floor[i] = r.has_floor() && r.ssim().mean() <= r.floor().ssim().mean();
  }
  if (result[0].metric() != result[1].metric()) {
    fail(fmt::format("the metrics differ: {} and {}", result[0].metric(), result[1].metric()),
         attack, "attack both with the same attack.metric");
  }
  const auto same_image = [](const auto& a, const auto& b) { return a.first == b.first; };
  if (!std::ranges::equal(ssim[0], ssim[1], same_image) ||
      result[0].scored_sha256() != result[1].scored_sha256()) {
    fail(fmt::format("the scored images differ ({} of {}, {} of {})", ssim[0].size(),
                     runs[0].string(), ssim[1].size(), runs[1].string()),
         attack,
         "compare runs on the same data (shapes and image folders are drawn and split by seed), "
         "attacked "
         "with the same attack.scored_images and attack.one_per_class");
  }
  std::vector<double> values[2];
  for (int i = 0; i < 2; ++i) {
    for (const auto& [image, value] : ssim[i]) values[i].push_back(value);
    out.ssim[i] = std::accumulate(values[i].begin(), values[i].end(), 0.0) /
                  static_cast<double>(values[i].size());
  }
  out.images = std::ssize(values[0]);
  out.ssim_test = paired_test(values[0], values[1], 1);
  return out;
}

}  // namespace

std::string scores_csv(const std::vector<AttackScore>& by_seed, uint64_t first_seed,
                       std::span<const int64_t> images, std::span<const int32_t> labels) {
  std::string out =
      "image,label,seed,ssim,psnr,mse,negative_ssim,negative_psnr,recognised,reidentified\n";
  for (size_t k = 0; k < by_seed.size(); ++k) {
    const AttackScore& score = by_seed[k];
    const ImageScores &own = score.scores.images, &negative = score.negative.images;
    for (size_t i = 0; i < images.size(); ++i) {
      out += fmt::format("{},{},{},{},{},{},{},{},", images[i], labels[i], first_seed + k,
                         own.ssim.at(i), own.psnr.at(i), own.mse.at(i), negative.ssim.at(i),
                         negative.psnr.at(i));
      if (score.reference) {
        out += fmt::format("{},{}", score.reference->recognised.at(i),
                           score.reference->reidentified.at(i));
      } else {
        out += ",";
      }
      out += "\n";
    }
  }
  return out;
}

std::vector<AttackComparison> compare_runs(const fs::path& a, const fs::path& b,
                                           const std::vector<std::string>& attacks) {
  const fs::path runs[2] = {a, b};
  for (const fs::path& run : runs) {
    if (!fs::exists(run / "DONE")) {
      usage_fail("'" + run.string() + "' is not a finished run folder", "compare",
                 "give two run folders that were attacked: ensembler attack RUN");
    }
  }
  const std::vector<std::string> there[2] = {attacks_of(a), attacks_of(b)};
  std::vector<std::string> wanted = attacks;
  for (const std::string& attack : wanted) {
    for (int i = 0; i < 2; ++i) {
      if (std::ranges::count(there[i], attack) > 0) continue;
      usage_fail("'" + runs[i].string() + "' was not attacked with '" + attack + "'", "compare",
                 "it has: " + join(there[i]));
    }
  }
  if (wanted.empty()) {
    std::ranges::copy_if(there[0], std::back_inserter(wanted), [&](const std::string& attack) {
      return std::ranges::count(there[1], attack) > 0;
    });
  }
  if (wanted.empty()) {
    usage_fail("the runs have no attack in common", "compare",
               fmt::format("attack both: ensembler attack {} {}", a.string(), b.string()));
  }
  std::vector<AttackComparison> out;
  for (const std::string& attack : wanted) out.push_back(compare_attack(runs, attack));
  return out;
}

}  // namespace ens
