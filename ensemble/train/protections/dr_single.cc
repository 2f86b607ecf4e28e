// SPDX-License-Identifier: Apache-2.0
// Noise and dropout of the features, in training and in use.
#include "ensemble/train/protection_training.h"

namespace ens {
namespace {

class NoiseAndDropout : public ProtectionTraining {
 public:
  void stage1_settings(const RunConfig& config, RunConfig& identity) const override {
    copy_noise_settings(config, identity);
    const double dropout = config.protection().dr().dropout();
    if (dropout > 0) identity.mutable_protection()->mutable_dr()->set_dropout(dropout);
  }
  ProtectionSpec feature_protection(const TrainingContext& context, Rng& rng) const override {
    ProtectionSpec spec = draw_noise(context, rng);
    const auto dropout = static_cast<float>(context.config.protection().dr().dropout());
    if (dropout > 0) spec.insert(spec.begin(), {"dropout", Tensor::from({dropout}, {1})});
    return spec;
  }
};

}  // namespace

std::unique_ptr<ProtectionTraining> dr_single_protection() {
  return std::make_unique<NoiseAndDropout>();
}

}  // namespace ens
