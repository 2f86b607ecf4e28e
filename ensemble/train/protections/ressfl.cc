// SPDX-License-Identifier: Apache-2.0
// ResSFL (Li et al., CVPR 2022): the classifier pays for the success of an inverse network that
// learns alongside.
#include <numeric>

#include "ensemble/protect/adversary_train.h"
#include "ensemble/train/protection_training.h"

namespace ens {
namespace {

// The pixels' variance around their channel's mean: the error of whoever knows that mean only.
double pixel_variance(const ModelSpec& spec) {
  return std::inner_product(spec.stddev.begin(), spec.stddev.end(), spec.stddev.begin(), 0.0) /
         static_cast<double>(spec.stddev.size());
}

class AdversaryPenalty : public FeaturePenalty {
 public:
  AdversaryPenalty(double w, const TrainingContext& context, Rng rng, Device device)
      : FeaturePenalty(w, "adversary_success"),
        adversary_(context.feature(), context.spec.input_shape(), pixel_variance(context.spec), rng,
                   device) {}
  Var value(const Var& images, const Var& features) override {
    return adversary_.success(features, images);
  }
  std::vector<AuxiliaryModel> auxiliary_models() override {
    return {{"adversary", &adversary_.net(), &adversary_.optimizer()}};
  }

 private:
  FeatureAdversary adversary_;
};

class ResSfl : public ProtectionTraining {
 public:
  void stage1_settings(const RunConfig& config, RunConfig& identity) const override {
    const double w = weight(config);
    if (w > 0) identity.mutable_protection()->mutable_ressfl()->set_adversary_weight(w);
  }
  std::unique_ptr<FeaturePenalty> penalty(const TrainingContext& context, const std::string& net,
                                          Device device) const override {
    const double w = weight(context.config);
    if (w == 0) return nullptr;
    return std::make_unique<AdversaryPenalty>(
        w, context, Rng(context.config.seed(), net + "/adversary"), device);
  }
  int decoders() const override { return 1; }

 private:
  static double weight(const RunConfig& config) {
    return config.protection().ressfl().adversary_weight();
  }
};

}  // namespace

std::unique_ptr<ProtectionTraining> ressfl_protection() { return std::make_unique<ResSfl>(); }

}  // namespace ens
