// SPDX-License-Identifier: Apache-2.0
// NoPeek (Vepakomma et al., ICDMW 2020): the classifier pays for the distance correlation of image
// and feature.
#include "ensemble/protect/distance_train.h"
#include "ensemble/train/protection_training.h"

namespace ens {
namespace {

class DistancePenalty : public FeaturePenalty {
 public:
  explicit DistancePenalty(double w) : FeaturePenalty(w, "distance_correlation") {}
  Var value(const Var& images, const Var& features) override {
    return distance_correlation(images, features);
  }
};

class NoPeek : public ProtectionTraining {
 public:
  void stage1_settings(const RunConfig& config, RunConfig& identity) const override {
    const double w = weight(config);
    if (w > 0) identity.mutable_protection()->mutable_nopeek()->set_distance_weight(w);
  }
  std::unique_ptr<FeaturePenalty> penalty(const TrainingContext& context, const std::string&,
                                          Device) const override {
    const double w = weight(context.config);
    return w > 0 ? std::make_unique<DistancePenalty>(w) : nullptr;
  }

 private:
  static double weight(const RunConfig& config) {
    return config.protection().nopeek().distance_weight();
  }
};

}  // namespace

std::unique_ptr<ProtectionTraining> nopeek_protection() { return std::make_unique<NoPeek>(); }

}  // namespace ens
