#include "lab/results.h"

#include <fmt/format.h>

#include <string>

#include "attacks/split/registry.h"
#include "proto/results.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
template <typename Message>
void fill(Message* out, double ssim, double psnr) {
  out->set_ssim(ssim);
  out->set_psnr(psnr);
}

std::string cell(const results::Interval& v, int digits, int digits_of_range) {
  return fmt::format("{:.{}f} [{:.{}f},{:.{}f}]", v.mean(), digits, v.low(), digits_of_range,
                     v.high(), digits_of_range);
}

}  // namespace

void fill(results::Interval* out, const Interval& interval) {
  out->set_mean(interval.mean);
  out->set_low(interval.low);
  out->set_high(interval.high);
}

results::AttackResult to_message(const AttackScore& s) {
  results::AttackResult out;
  out.set_attack(s.attack);
  out.set_title(s.title);
  out.set_level(s.level);
  out.set_best_of(s.best_of);
  if (s.best_of > 1) out.set_chosen_by("truth (SSIM)");
  out.set_best_part(s.best_candidate);
  out.set_best_psnr(s.best_psnr);
  out.set_scored_images(static_cast<int32_t>(s.scored_images));
  fill(out.mutable_ssim(), s.scores.ssim);
  fill(out.mutable_psnr(), s.scores.psnr);
  fill(out.mutable_mse(), s.scores.mse);
  fill(out.mutable_negative(), s.negative.ssim.mean, s.negative.psnr.mean);
  out.mutable_negative()->set_better(s.negative.ssim.mean > s.scores.ssim.mean);
  if (s.calibration) fill(out.mutable_own(), s.calibration->ssim.mean, s.calibration->psnr.mean);
  if (s.shadow_accuracy >= 0) out.set_shadow_accuracy(s.shadow_accuracy);
  out.set_seconds(s.seconds);
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

void print_results(const std::vector<fs::path>& folders) {
  fmt::print("\n{:<12} {:>9}  {:<34} {:>16} {:>17} {:>11}\n", "protection", "accuracy", "attack",
             "SSIM [95 %]", "PSNR dB [95 %]", "recognised");
  for (const fs::path& folder : folders) {
    results::RunSummary summary;
    results::read(folder / "summary.json", summary);
    std::string left =
        fmt::format("{:<12} {:>7.1f} %", summary.protection(), 100 * summary.accuracy());
    for (const std::string& attack : attack_names()) {
      const fs::path file = folder / "attack" / attack / "result.json";
      if (!fs::exists(file)) continue;
      results::AttackResult r;
      results::read(file, r);
      if (r.has_pointless()) continue;
      if (r.has_error()) {
        fmt::print("{}  {:<34} failed: {}\n", left, r.title(), r.error());
      } else {
        const std::string recognised =
            r.has_reference() ? fmt::format("{:.0f} %", 100 * r.reference().recognised().mean())
                              : "";
        // Whoever reads nothing can still show what the floor shows.
        const bool failed = r.has_floor() && r.ssim().mean() <= r.floor().ssim().mean();
        fmt::print("{}  {:<34} {:>16} {:>17} {:>11}\n", left, r.title(),
                   cell(failed ? r.floor().ssim() : r.ssim(), 3, 2),
                   cell(failed ? r.floor().psnr() : r.psnr(), 1, 1), recognised);
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
