// SPDX-License-Identifier: Apache-2.0
// An untrained head before a net that was trained with another one.
#include "ensemble/train/protection_training.h"

namespace ens {
namespace {

class RandomHead : public ProtectionTraining {
 public:
  TrainingResult finish(const TrainingContext& context, const Stage1& stage1) const override {
    TrainingResult result = ProtectionTraining::finish(context, stage1);
    Rng rng = context.secret_rng("random/head");
    result.head = build_head(context.spec, context.split, rng);
    result.head->freeze();
    result.accuracy = measure_accuracy(context, result, context.test);
    return result;
  }
};

}  // namespace

std::unique_ptr<ProtectionTraining> random_protection() { return std::make_unique<RandomHead>(); }

}  // namespace ens
