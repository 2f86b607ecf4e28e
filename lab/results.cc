// SPDX-License-Identifier: Apache-2.0
#include "lab/results.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <string>

#include "attacks/disguise/registry.h"
#include "attacks/split/registry.h"
#include "attacks/text/registry.h"
#include "base/files.h"
#include "base/strings.h"
#include "experiment/tensorboard.h"
#include "lab/scores.h"
#include "nn/data/image.h"
#include "nn/io/checkpoint.h"
#include "proto/results.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
template <typename Message>
void fill(Message* out, double ssim, double psnr) {
  out->set_ssim(ssim);
  out->set_psnr(psnr);
}

void fill(results::AttackResult::Negative* out, Polarity polarity, double ssim, double psnr,
          double as_is) {
  fill(out, ssim, psnr);
  out->set_better(ssim > as_is);
  out->set_polarity(name(polarity));
}

void fill(results::AttackResult::Matching* out, const MatchingScore& score) {
  out->set_gallery(static_cast<int32_t>(score.gallery));
  ens::fill(out->mutable_rank1(), score.rank1);
  out->set_cmc5(score.cmc5);
  out->set_cmc20(score.cmc20);
  out->set_guesswork(score.guesswork);
}

void fill(results::AttackResult::Hits* out, const HitScore& score) {
  out->set_all(score.all);
  out->set_non_constant(score.non_constant);
}

std::string cell(const results::Interval& v, int digits, int digits_of_range) {
  return fmt::format("{:.{}f} [{:.{}f},{:.{}f}]", v.mean(), digits, v.low(), digits_of_range,
                     v.high(), digits_of_range);
}

// The first images of [M,C,S,S] side by side: [C, S, count*S].
Tensor strip(const Tensor& images, int64_t count) {
  count = std::min(count, images.dim(0));
  const int64_t c = images.dim(1), h = images.dim(2), w = images.dim(3);
  Tensor out = Tensor::empty({c, h, w * count});
  const float* from = images.data<float>();
  float* to = out.data<float>();
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t row = 0; row < c * h; ++row) {
      std::copy_n(from + (i * c * h + row) * w, w, to + (row * count + i) * w);
    }
  }
  return out;
}

// All scored images and their reconstructions. Whoever may read it sees what the client keeps
// secret, so the file is its owner's alone.
void keep_images(const fs::path& file, const Tensor& originals, const ImageRoles& roles,
                 const std::vector<AttackScore>& by_seed, uint64_t first_seed) {
  const std::vector<int32_t> indices(roles.scored_indices.begin(), roles.scored_indices.end());
  Checkpoint images{"reconstructions", {}, {}, {}, ""};
  images.texts["attack"] = by_seed[0].attack;
  images.tensors = {{"originals", originals},
                    {"image", Tensor::from_labels(indices)},
                    {"label", Tensor::from_labels(roles.scored.labels)}};
  for (size_t i = 0; i < by_seed.size(); ++i) {
    images.tensors[fmt::format("seed_{}", first_seed + i)] = by_seed[i].reconstruction;
  }
  write_checkpoint(file, images, /*secret=*/true);
}

}  // namespace

std::vector<fs::path> result_files(const fs::path& folder) {
  std::set<fs::path> there;
  std::error_code none;  // a run that was not attacked
  for (const auto& entry : fs::directory_iterator(folder / "attack", none)) {
    if (fs::exists(entry.path() / "result.json")) there.insert(entry.path());
  }
  std::vector<fs::path> files;
  std::vector<std::string> order = attack_names();
  for (const std::string& attack : disguise_attack_names()) order.push_back(attack);
  for (const std::string& attack : text_attack_names()) order.push_back(attack);
  const auto add = [&](const fs::path& path) {
    const fs::path file = path / "result.json";
    if (std::ranges::count(files, file) == 0) files.push_back(file);
  };
  for (const std::string& attack : order) {
    for (const fs::path& path : there) {
      const std::string name = path.filename().string();
      if (name == attack || name.starts_with(attack + "-seed")) add(path);
    }
  }
  for (const fs::path& path : there) add(path);  // of other scenarios
  return files;
}

void fill(results::Interval* out, const Interval& interval) {
  out->set_mean(interval.mean);
  out->set_low(interval.low);
  out->set_high(interval.high);
}

void fill(results::AttackResult::Floor* out, const AttackScore& score) {
  out->set_attack(score.title);
  fill(out->mutable_ssim(), score.scores.ssim);
  fill(out->mutable_psnr(), score.scores.psnr);
}

MetricMode metric_mode(const AttackConfig& config) {
  return config.metric() == "he19" ? MetricMode::kHe19 : MetricMode::kDefault;
}

uint64_t first_attack_seed(const RunConfig& config) {
  return config.attack().seed() > 0 ? config.attack().seed() : config.seed();
}

size_t middle_seed(const std::vector<AttackScore>& by_seed) {
  std::vector<size_t> order(by_seed.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, {}, [&](size_t i) {
    return by_seed[i].auc ? by_seed[i].auc->mean : by_seed[i].scores.ssim.mean;
  });
  return order.at((order.size() - 1) / 2);
}

results::AttackResult to_message(const std::vector<AttackScore>& by_seed, uint64_t first_seed,
                                 std::span<const int64_t> images) {
  const AttackScore& s = by_seed[middle_seed(by_seed)];
  results::AttackResult out;
  out.set_attack(s.attack);
  out.set_title(s.title);
  out.set_level(s.level);
  if (s.auc) {  // an attack on membership, which rebuilds nothing
    fill(out.mutable_auc(), *s.auc);
    for (const AttackScore& score : by_seed) out.set_seconds(out.seconds() + score.seconds);
    return out;
  }
  out.set_best_of(s.best_of);
  if (s.best_of > 1) out.set_chosen_by("truth (SSIM)");
  out.set_best_part(s.best_candidate);
  out.set_best_psnr(s.best_psnr);
  out.set_scored_images(static_cast<int32_t>(s.scored_images));
  const auto over_seeds = [&](results::Interval* interval, auto values) {
    std::vector<std::vector<double>> all;
    for (const AttackScore& score : by_seed) all.push_back(score.scores.images.*values);
    fill(interval, bootstrap_seeds(all, first_seed));
  };
  over_seeds(out.mutable_ssim(), &ImageScores::ssim);
  over_seeds(out.mutable_psnr(), &ImageScores::psnr);
  over_seeds(out.mutable_mse(), &ImageScores::mse);
  double seconds = 0;
  for (size_t i = 0; i < by_seed.size(); ++i) {
    const AttackScore& score = by_seed[i];
    seconds += score.seconds;
    if (by_seed.size() == 1) break;
    results::AttackResult::SeedScore* seed = out.add_seeds();
    seed->set_seed(static_cast<double>(first_seed + i));
    fill(seed, score.scores.ssim.mean, score.scores.psnr.mean);
    fill(seed->mutable_negative(), score.negative.polarity, score.negative.ssim.mean,
         score.negative.psnr.mean, score.scores.ssim.mean);
    if (score.attacker_choice >= 0) {
      seed->set_own_pick(score.candidates[static_cast<size_t>(score.attacker_choice)].ssim);
    }
  }
  fill(out.mutable_negative(), s.negative.polarity, s.negative.ssim.mean, s.negative.psnr.mean,
       s.scores.ssim.mean);
  const std::vector<double>& ssim = s.scores.images.ssim;
  const auto [worst, best] = std::ranges::minmax_element(ssim);
  for (const auto& [image, out_image] :
       {std::pair(best, out.mutable_best_image()), {worst, out.mutable_worst_image()}}) {
    out_image->set_image(static_cast<int32_t>(images[static_cast<size_t>(image - ssim.begin())]));
    out_image->set_ssim(*image);
  }
  if (s.calibration) fill(out.mutable_own(), s.calibration->ssim.mean, s.calibration->psnr.mean);
  if (s.shadow_accuracy >= 0) out.set_shadow_accuracy(s.shadow_accuracy);
  out.set_seconds(seconds);
  if (s.reference) {
    fill(out.mutable_reference()->mutable_recognised(), s.reference->recognition_rate);
    fill(out.mutable_reference()->mutable_reidentified(), s.reference->reidentification_rate);
    out.mutable_reference()->set_originals(s.reference->originals);
    out.mutable_reference()->set_chance(s.reference->chance);
  }
  for (const CandidateScore& p : s.candidates) {
    results::AttackResult::Candidate* part = out.add_parts();
    part->set_name(p.name);
    fill(part, p.ssim, p.psnr);
    part->set_merit(p.self_score);  // what is not finite is not written
    part->set_x(p.x);
    fill(part->mutable_negative(), p.polarity, p.negative_ssim, p.negative_psnr, p.ssim);
    if (p.matching) fill(part->mutable_matching(), *p.matching);
    if (p.hits) fill(part->mutable_hits(), *p.hits);
  }
  if (s.matching) fill(out.mutable_matching(), *s.matching);
  if (s.hits) fill(out.mutable_hits(), *s.hits);
  for (const ModelUse& use : s.model_use) {
    results::AttackResult::ModelUse* one = out.add_model_use();
    one->set_on(use.on);
    one->set_accuracy(use.accuracy);
  }
  for (const DecoderRound& r : s.training.rounds) {
    results::AttackResult::Round* round = out.add_rounds();
    round->set_loss(name(r.loss));
    round->set_channels(r.size.channels);
    round->set_blocks(r.size.blocks);
    round->set_images(static_cast<int32_t>(r.images));
    round->set_passes(static_cast<double>(r.images * r.epochs));
    round->set_steps(static_cast<int32_t>(r.steps));
    round->set_ssim(r.ssim);
    round->set_psnr(r.psnr);
    round->set_cpu_seconds(r.cpu_seconds);
  }
  if (s.training.saturated) out.set_saturated(true);
  if (s.attacker_choice >= 0) {
    const CandidateScore& p = s.candidates[static_cast<size_t>(s.attacker_choice)];
    out.mutable_own_pick()->set_name(p.name);
    fill(out.mutable_own_pick(), p.ssim, p.psnr);
  }
  return out;
}

results::AttackResult write_scores(const fs::path& folder, const std::vector<AttackScore>& by_seed,
                                   uint64_t first_seed, const ImageRoles& roles,
                                   const Tensor& truth, bool with_images) {
  fs::create_directories(folder);
  const std::vector<int64_t>& images = roles.scored_indices;
  results::AttackResult out = to_message(by_seed, first_seed, images);
  if (out.has_auc()) return out;
  out.set_scored_sha256(to_hex(digest({{"originals", truth}})));
  write_file_atomically(folder / kScoresFile,
                        scores_csv(by_seed, first_seed, images, roles.scored.labels),
                        /*secret=*/false);
  if (with_images) keep_images(folder / kImagesFile, truth, roles, by_seed, first_seed);
  write_png(folder / "original.png", strip(truth, 16));
  write_png(folder / "reconstruction.png", strip(by_seed[middle_seed(by_seed)].reconstruction, 16));
  return out;
}

void write_events(const fs::path& folder, const results::AttackResult& result,
                  const fs::path& attack) {
  EventFile events(folder);
  const std::string& name = result.attack();
  const auto add = [&](const std::string& what, int64_t step, const auto& score) {
    events.add_scalar(name + what + "/ssim", step, score.ssim());
    events.add_scalar(name + what + "/psnr", step, score.psnr());
  };
  events.add_scalar(name + "/ssim", 0, result.ssim().mean());
  events.add_scalar(name + "/psnr", 0, result.psnr().mean());
  for (const auto& seed : result.seeds()) add("/seeds", static_cast<int64_t>(seed.seed()), seed);
  for (int i = 0; i < result.parts_size(); ++i) add("/candidates", i, result.parts(i));
  for (const auto& round : result.rounds()) {
    add("/decoder_" + round.loss(), static_cast<int64_t>(round.passes()), round);
  }
  for (const char* image : {"original", "reconstruction"}) {
    events.add_image(name + "/" + image, 0, read_file(attack / (std::string(image) + ".png")));
  }
}

void print_results(const std::vector<fs::path>& folders) {
  fmt::print("\n{:<12} {:>9}  {:<34} {:>16} {:>17} {:>11}\n", "protection", "accuracy", "attack",
             "SSIM [95 %]", "PSNR dB [95 %]", "recognised");
  for (const fs::path& folder : folders) {
    results::RunSummary summary;
    results::read(folder / "summary.json", summary);
    std::string protection = summary.protection();
    if (const auto& b = summary.blinded(); summary.has_blinded())
      protection += fmt::format(" {}/{}", b.colluding(), b.clouds());
    if (summary.has_disguise()) protection = summary.disguise().method();
    std::string left = fmt::format("{:<12} {:>7.1f} %", protection, 100 * summary.accuracy());
    for (const fs::path& file : result_files(folder)) {
      results::AttackResult r;
      results::read(file, r);
      if (r.has_pointless()) continue;
      if (r.has_error()) {
        fmt::print("{}  {:<34} failed: {}\n", left, r.title(), r.error());
      } else if (r.has_auc()) {
        fmt::print("{}  {:<34} AUC {}\n", left, r.title(), cell(r.auc(), 3, 2));
      } else {
        std::string recognised =
            r.has_reference() ? fmt::format("{:.0f} %", 100 * r.reference().recognised().mean())
                              : "";
        if (r.has_matching()) {
          recognised += fmt::format("{}rank-1 {:.1f} % of {}", recognised.empty() ? "" : ", ",
                                    100 * r.matching().rank1().mean(), r.matching().gallery());
        }
        // Whoever reads nothing can still show what the floor shows.
        const bool failed = !summary.has_blinded() && !summary.has_disguise() && r.has_floor() &&
                            r.ssim().mean() <= r.floor().ssim().mean();
        fmt::print("{}  {:<34} {:>16} {:>17} {:>11}\n", left, r.title(),
                   cell(failed ? r.floor().ssim() : r.ssim(), 3, 2),
                   cell(failed ? r.floor().psnr() : r.psnr(), 1, 1), recognised);
        if (r.seeds_size() > 1) {
          const auto [least, most] =
              std::minmax_element(r.seeds().begin(), r.seeds().end(),
                                  [](const auto& a, const auto& b) { return a.ssim() < b.ssim(); });
          fmt::print("{:24}median of {} seeds, {:.3f} to {:.3f}\n", "", r.seeds_size(),
                     least->ssim(), most->ssim());
        }
        for (const auto& use : r.model_use()) {
          fmt::print("{:24}right on {:.1f} % of {}\n", "", 100 * use.accuracy(), use.on());
        }
        if (failed) {
          fmt::print("{:24}failed: its own SSIM is {:.3f}; shown is the floor, {}\n", "",
                     r.ssim().mean(), r.floor().attack());
        }
      }
      left = fmt::format("{:<12} {:>9}", "", "");
    }
  }
}

}  // namespace ens
