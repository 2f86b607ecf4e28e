#include "attacks/evaluator.h"

#include <algorithm>
#include <chrono>

#include "nn/core/error.h"

namespace ens {

Evaluator::Evaluator(Tensor truth) : truth_(std::move(truth)) {}

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
  result.best_of = static_cast<int>(all.size());
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  size_t best = 0;
  std::vector<PolarityScores> scored;
  for (const Reconstruction& r : all) {
    if (!(r.images.shape() == truth_.shape())) {
      fail("reconstructions are " + r.images.shape().str() + ", the images " + truth_.shape().str(),
           attack.name() + ", " + r.part);
    }
    scored.push_back(score_polarities(truth_, r.images, view.seed));
    const Score& s = scored.back().scores[0];
    result.parts.push_back({r.part, s.ssim.mean, s.psnr.mean, r.shadow_accuracy});
    if (s.ssim.mean > result.parts[best].ssim) best = result.parts.size() - 1;
    result.best_psnr = std::max(result.best_psnr, s.psnr.mean);
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
    result.own = score(r.own_truth, r.own_images, view.seed);
  }
  return result;
}

}  // namespace ens
