// SPDX-License-Identifier: Apache-2.0
#include "attacks/core/evaluator.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace ens {
namespace {

const Score& best_negative(const PolarityScores& all) {
  return *std::max_element(
      all.scores.begin() + 1, all.scores.end(),
      [](const Score& a, const Score& b) { return a.ssim.mean < b.ssim.mean; });
}

double share_of_largest_class(const std::vector<int32_t>& labels) {
  int64_t largest = 0;
  for (const int32_t label : labels) largest = std::max(largest, std::ranges::count(labels, label));
  return static_cast<double>(largest) / static_cast<double>(std::max<size_t>(1, labels.size()));
}

HitScore score_hits(const Tensor& truth, const Reconstruction& r) {
  if (!(r.known.shape() == truth.shape())) {
    fail("a mask of " + r.known.shape().str() + " for images " + truth.shape().str(), r.candidate);
  }
  const int64_t h = truth.dim(2), w = truth.dim(3), maps = truth.numel() / (h * w);
  int64_t blocks = 0, hits = 0, non_constant = 0, non_constant_hits = 0;
  for (int64_t map = 0; map < maps; ++map) {
    const float* pixels = truth.data<float>() + map * h * w;
    const float* known = r.known.data<float>() + map * h * w;
    for (int64_t top = 0; top < h; top += r.block_height) {
      for (int64_t left = 0; left < w; left += r.block_width) {
        bool constant = true;
        for (int64_t y = top; y < std::min(h, top + r.block_height); ++y) {
          for (int64_t x = left; x < std::min(w, left + r.block_width); ++x) {
            constant = constant && pixels[y * w + x] == pixels[top * w + left];
          }
        }
        const bool hit = known[top * w + left] > 0;
        ++blocks, hits += hit, non_constant += !constant, non_constant_hits += hit && !constant;
      }
    }
  }
  const auto share = [](int64_t part, int64_t of) {
    return static_cast<double>(part) / static_cast<double>(std::max<int64_t>(1, of));
  };
  return {share(hits, blocks), share(non_constant_hits, non_constant)};
}

Interval score_membership(const Tensor& scores, const std::vector<int32_t>& members) {
  if (scores.numel() != std::ssize(members)) {
    fail("scores of " + scores.shape().str() + " for " + std::to_string(members.size()) +
         " candidates for membership");
  }
  std::vector<double> in, out;
  for (size_t i = 0; i < members.size(); ++i) {
    (members[i] ? in : out).push_back(scores.data<float>()[i]);
  }
  return area_under_curve(in, out);
}

}  // namespace

Evaluator::Evaluator(Tensor truth, MetricMode mode) : truth_(std::move(truth)), mode_(mode) {}

void Evaluator::set_reference_classifier(std::shared_ptr<const ReferenceClassifier> reference,
                                         std::vector<int32_t> labels) {
  reference_ = std::move(reference);
  labels_ = std::move(labels);
}

MatchingScore Evaluator::match(const Reconstruction& r, uint64_t seed) const {
  if (r.match) return score_matching(r.match(gallery_), seed);
  MatchingScore best = score_matching(pixel_similarity(r.images.plain(), gallery_), seed);
  if (!reference_) return best;
  const MatchingScore seen = score_matching(reference_->similarity(r.images, gallery_), seed);
  return seen.rank1.mean > best.rank1.mean ? seen : best;
}

AttackScore Evaluator::evaluate(const Attack& attack, uint64_t seed,
                                const std::function<std::vector<Reconstruction>()>& run) const {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<Reconstruction> all = run();
  if (all.empty()) fail("the attack returned nothing", attack.name());

  AttackScore result;
  result.attack = attack.name();
  result.title = attack.title();
  result.level = name(attack.level());
  result.scored_images = truth_.dim(0);
  const bool curve = std::isfinite(all.back().x);
  result.best_of = curve ? 1 : static_cast<int>(all.size());
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (all.back().membership.defined()) {
    result.auc = score_membership(all.back().membership, members_);
    return result;
  }
  size_t best = 0;
  std::vector<PolarityScores> scored;
  for (const Reconstruction& r : all) {
    if (!(r.images.shape() == truth_.shape())) {
      fail("reconstructions are " + r.images.shape().str() + ", the images " + truth_.shape().str(),
           attack.name() + ", " + r.candidate);
    }
    scored.push_back(score_polarities(truth_, r.images, seed, mode_));
    const Score& s = scored.back().scores[0];
    const Score& negative = best_negative(scored.back());
    const bool first = result.candidates.empty();
    result.candidates.push_back({r.candidate, s.ssim.mean, s.psnr.mean, r.shadow_accuracy,
                                 r.self_score, r.x, negative.polarity, negative.ssim.mean,
                                 negative.psnr.mean});
    if (gallery_.defined()) result.candidates.back().matching = match(r, seed);
    if (r.known.defined()) result.candidates.back().hits = score_hits(truth_, r);
    const int index = static_cast<int>(result.candidates.size()) - 1;
    if (std::isfinite(r.self_score) &&
        (result.attacker_choice < 0 ||
         r.self_score > result.candidates[static_cast<size_t>(result.attacker_choice)].self_score))
      result.attacker_choice = index;
    if (curve || s.ssim.mean > result.candidates[best].ssim) best = static_cast<size_t>(index);
    result.best_psnr = first || curve ? s.psnr.mean : std::max(result.best_psnr, s.psnr.mean);
  }
  result.scores = scored[best].scores[0];
  result.negative = best_negative(scored[best]);
  const Reconstruction& r = all[best];
  result.best_candidate = r.candidate;
  result.matching = result.candidates[best].matching;
  result.hits = result.candidates[best].hits;
  result.shadow_accuracy = r.shadow_accuracy;
  result.reconstruction = r.images;
  result.training = r.training;
  result.model_use = r.model_use;
  if (r.calibration_images.defined()) {
    result.calibration = score(r.calibration_targets, r.calibration_images, seed, mode_);
  }
  if (reference_) {
    const std::vector<double> seen = reference_->recognition_of(truth_, labels_);
    ReferenceScore& score = result.reference.emplace();
    score.recognised = reference_->recognition_of(r.images, labels_);
    score.reidentified = reference_->reidentification_of(truth_, r.images);
    score.recognition_rate = bootstrap(score.recognised, seed);
    score.reidentification_rate = bootstrap(score.reidentified, seed);
    score.originals =
        std::accumulate(seen.begin(), seen.end(), 0.0) / static_cast<double>(seen.size());
    score.chance = share_of_largest_class(labels_);
  }
  return result;
}

}  // namespace ens
