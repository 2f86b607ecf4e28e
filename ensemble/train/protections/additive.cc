// SPDX-License-Identifier: Apache-2.0
// Noise for a net that has never seen any.
#include "ensemble/train/protection_training.h"

namespace ens {
namespace {

class Additive : public ProtectionTraining {
 public:
  TrainingResult finish(const TrainingContext& context, const Stage1& stage1) const override {
    TrainingResult result = ProtectionTraining::finish(context, stage1);
    Rng rng = context.secret_rng("additive/noise");
    result.protection = draw_noise(context, rng);
    result.accuracy = measure_accuracy(context, result, context.test);
    return result;
  }
};

}  // namespace

std::unique_ptr<ProtectionTraining> additive_protection() { return std::make_unique<Additive>(); }

}  // namespace ens
