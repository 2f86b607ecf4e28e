// SPDX-License-Identifier: Apache-2.0
// One net that is trained with its noise.
#include "ensemble/train/protection_training.h"

namespace ens {
namespace {

class Single : public ProtectionTraining {
 public:
  void stage1_settings(const RunConfig& config, RunConfig& identity) const override {
    copy_noise_settings(config, identity);
  }
  ProtectionSpec feature_protection(const TrainingContext& context, Rng& rng) const override {
    return draw_noise(context, rng);
  }
};

}  // namespace

std::unique_ptr<ProtectionTraining> single_protection() { return std::make_unique<Single>(); }

}  // namespace ens
