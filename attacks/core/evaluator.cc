#include "attacks/core/evaluator.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace ens {

Evaluator::Evaluator(Tensor truth, MetricMode mode) : truth_(std::move(truth)), mode_(mode) {}

void Evaluator::consult(std::shared_ptr<const Reference> reference, std::vector<int32_t> labels) {
  reference_ = std::move(reference);
  labels_ = std::move(labels);
}

AttackScore Evaluator::evaluate(Attack& attack, const AdversaryView& view,
                                const AttackOptions& options) const {
  if (view.observed.dim(0) != truth_.dim(0)) {
    fail("the view holds " + std::to_string(view.observed.dim(0)) + " features, the truth " +
             std::to_string(truth_.dim(0)) + " images",
         attack.name());
  }
  const auto start = std::chrono::steady_clock::now();
  const std::vector<Reconstruction> all = attack.run(view, options);
  if (all.empty()) fail("the attack returned nothing", attack.name());

  AttackScore result;
  result.attack = attack.name();
  result.title = attack.title();
  result.level = name(attack.level());
  result.scored_images = truth_.dim(0);
  const bool curve = std::isfinite(all.back().x);
  result.best_of = curve ? 1 : static_cast<int>(all.size());
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  size_t best = 0;
  std::vector<PolarityScores> scored;
  for (const Reconstruction& r : all) {
    if (!(r.images.shape() == truth_.shape())) {
      fail("reconstructions are " + r.images.shape().str() + ", the images " + truth_.shape().str(),
           attack.name() + ", " + r.part);
    }
    scored.push_back(score_polarities(truth_, r.images, view.seed, mode_));
    const Score& s = scored.back().scores[0];
    const bool first = result.parts.empty();
    result.parts.push_back({r.part, s.ssim.mean, s.psnr.mean, r.shadow_accuracy, r.merit, r.x});
    const int index = static_cast<int>(result.parts.size()) - 1;
    if (std::isfinite(r.merit) &&
        (result.own_pick < 0 || r.merit > result.parts[static_cast<size_t>(result.own_pick)].merit))
      result.own_pick = index;
    if (curve || s.ssim.mean > result.parts[best].ssim) best = static_cast<size_t>(index);
    result.best_psnr = first || curve ? s.psnr.mean : std::max(result.best_psnr, s.psnr.mean);
  }
  const std::vector<Score>& kinds = scored[best].scores;
  result.scores = kinds[0];
  result.negative =
      *std::max_element(kinds.begin() + 1, kinds.end(),
                        [](const Score& a, const Score& b) { return a.ssim.mean < b.ssim.mean; });
  const Reconstruction& r = all[best];
  result.best_part = r.part;
  result.shadow_accuracy = r.shadow_accuracy;
  result.reconstruction = r.images;
  if (r.own_images.defined()) {
    result.has_own = true;
    result.own = score(r.own_truth, r.own_images, view.seed, mode_);
  }
  if (reference_) {
    const std::vector<double> seen = reference_->recognised(truth_, labels_);
    result.reference = {
        bootstrap(reference_->recognised(r.images, labels_), view.seed),
        bootstrap(reference_->reidentified(truth_, r.images), view.seed),
        std::accumulate(seen.begin(), seen.end(), 0.0) / static_cast<double>(seen.size())};
  }
  return result;
}

}  // namespace ens
