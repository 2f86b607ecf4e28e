// SPDX-License-Identifier: Apache-2.0
// Evaluator: the only place that knows the true images. It lets an attack run, which never sees
// them, scores every candidate, and says when the truth chose among several.
#pragma once

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "attacks/core/attack.h"
#include "attacks/core/matching.h"
#include "attacks/core/metrics.h"
#include "attacks/core/reference_classifier.h"

namespace ens {

// Of a codebook: the shares of the scored images' blocks that it holds.
struct HitScore {
  double all = 0;
  double non_constant = 0;  // of those that are not of one value
};

struct CandidateScore {
  std::string name;
  double ssim = 0, psnr = 0;
  double shadow_accuracy = -1;  // -1: no shadow
  double self_score = std::numeric_limits<double>::quiet_NaN();
  double x = std::numeric_limits<double>::quiet_NaN();  // a point of a curve (Reconstruction::x)
  // Its best negative, by SSIM: which, and how good.
  Polarity polarity = Polarity::kNegative;
  double negative_ssim = 0, negative_psnr = 0;
  std::optional<MatchingScore> matching;  // with a gallery
  std::optional<HitScore> hits;
};

// What a reference classifier makes of the reported reconstruction: shares of the scored images.
struct ReferenceScore {
  Interval recognition_rate, reidentification_rate;  // see ReferenceClassifier
  double originals = 0;  // recognised of the originals: the most that can be reached
  double chance = 0;     // recognised of whatever is taken for the most frequent class
  std::vector<double> recognised, reidentified;  // 1 or 0, one an image
};

struct AttackScore {
  std::string attack, title, level;
  int64_t scored_images = 0;
  Score scores;          // of the reported reconstruction (best mean SSIM of `candidates`)
  Score negative;        // of its best negative: an attack may settle on the inverse
  double best_psnr = 0;  // best mean PSNR over the candidates, possibly another one's
  int best_of = 1;       // > 1: selected using the ground truth
  std::string best_candidate;
  // Index in `candidates` of what the attacker would choose (highest self-score); -1: none.
  int attacker_choice = -1;
  std::optional<Score> calibration;  // on the attacker's own held-out features
  std::optional<ReferenceScore> reference;
  std::optional<MatchingScore> matching;  // of the reported candidate, as `hits`
  std::optional<HitScore> hits;
  std::optional<Interval> auc;  // of an attack on membership, which has no scores of images
  std::vector<ModelUse> model_use;
  double shadow_accuracy = -1;
  std::vector<CandidateScore> candidates;
  double seconds = 0;
  Saturation training;    // of the reported candidate's decoder
  Tensor reconstruction;  // [M,C,S,S] the reported one
};

class Evaluator {
 public:
  // truth: [M, C, S, S] in [0, 1], the private images behind the observed features, in their order.
  explicit Evaluator(Tensor truth, MetricMode mode = MetricMode::kDefault);
  // Lets a reference classifier look at reconstructions too. labels: of the true images.
  void set_reference_classifier(std::shared_ptr<const ReferenceClassifier> reference,
                                std::vector<int32_t> labels);
  // Also lets candidates be matched with a gallery [G,C,S,S]: the true images, then others. What an
  // attack does not match itself is matched by its pixels or by the reference classifier,
  // whichever finds more.
  void set_gallery(Tensor gallery) { gallery_ = std::move(gallery); }
  // Which of the candidates for membership the model was trained on: 1 or 0, one each.
  void set_members(std::vector<int32_t> members) { members_ = std::move(members); }
  // Calls run(). `seed`: of the bootstrap. Error if the attack fails or returns images that do not
  // fit.
  AttackScore evaluate(const Attack& attack, uint64_t seed,
                       const std::function<std::vector<Reconstruction>()>& run) const;
  const Tensor& truth() const { return truth_; }

 private:
  MatchingScore match(const Reconstruction& reconstruction, uint64_t seed) const;

  Tensor truth_;
  MetricMode mode_;
  std::shared_ptr<const ReferenceClassifier> reference_;  // may be null
  std::vector<int32_t> labels_;
  Tensor gallery_;  // may be undefined
  std::vector<int32_t> members_;
};

}  // namespace ens
