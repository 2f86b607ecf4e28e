// Evaluator: the only place that knows the true images. It runs an attack on a view that does not
// hold them, scores every reconstruction, and says when the truth chose among several.
#pragma once

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "attacks/core/attack.h"
#include "attacks/core/metrics.h"
#include "attacks/core/reference_classifier.h"

namespace ens {

struct PartScore {
  std::string part;
  double ssim = 0, psnr = 0;
  double shadow_accuracy = -1;  // -1: no shadow
  double merit = std::numeric_limits<double>::quiet_NaN();
  double x = std::numeric_limits<double>::quiet_NaN();  // a point of a curve (Reconstruction::x)
};

// What a reference classifier makes of the reported reconstruction: shares of the scored images.
struct ReferenceScore {
  Interval recognised, reidentified;  // see Reference
  double originals = 0;               // recognised of the originals: the most that can be reached
};

struct AttackScore {
  std::string attack, title, level;
  int64_t scored_images = 0;
  Score scores;          // of the reported reconstruction (best mean SSIM of `parts`)
  Score negative;        // of its best negative: an attack may settle on the inverse
  double best_psnr = 0;  // best mean PSNR over the parts, possibly another part's
  int best_of = 1;       // > 1: chosen with the truth at hand
  std::string best_part;
  int own_pick =
      -1;  // index in `parts` of what the attacker would choose (highest merit); -1: none
  bool has_own = false;
  Score own;  // on the attacker's own held-out features
  std::optional<ReferenceScore> reference;
  double shadow_accuracy = -1;
  std::vector<PartScore> parts;
  double seconds = 0;
  Tensor reconstruction;  // [M,C,S,S] the reported one
};

class Evaluator {
 public:
  // truth: [M, C, S, S] in [0, 1], the private images behind view.observed, in the same order.
  explicit Evaluator(Tensor truth, MetricMode mode = MetricMode::kDefault);
  // Lets a reference classifier look at reconstructions too. labels: of the true images.
  void consult(std::shared_ptr<const Reference> reference, std::vector<int32_t> labels);
  // Error if the attack fails or returns images that do not fit.
  AttackScore evaluate(Attack& attack, const AdversaryView& view,
                       const AttackOptions& options) const;
  const Tensor& truth() const { return truth_; }

 private:
  Tensor truth_;
  MetricMode mode_;
  std::shared_ptr<const Reference> reference_;  // may be null
  std::vector<int32_t> labels_;
};

}  // namespace ens
