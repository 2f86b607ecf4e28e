// SPDX-License-Identifier: Apache-2.0
#include "ensemble/train/protection_training.h"

#include "ensemble/protect/step.h"
#include "experiment/setup.h"
#include "proto/protections.h"

namespace ens {
namespace {

// A FEATURE_PROTECTION.
class StepOnFeatures : public ProtectionTraining {
 public:
  using Values = Tensor (*)(const ProtectionConfig& settings);
  StepOnFeatures(std::string kind, Values values) : kind_(std::move(kind)), values_(values) {}

  // The group of settings that is named like the kind.
  void stage1_settings(const RunConfig& config, RunConfig& identity) const override {
    ProtectionConfig& to = *identity.mutable_protection();
    to.set_kind(kind_);
    const auto* group = ProtectionConfig::descriptor()->FindFieldByName(kind_);
    const auto* reflection = to.GetReflection();
    if (group) {
      reflection->MutableMessage(&to, group)
          ->CopyFrom(reflection->GetMessage(config.protection(), group));
    }
  }
  ProtectionSpec feature_protection(const TrainingContext& context, Rng&) const override {
    return {{kind_, values_(context.config.protection())}};
  }

 private:
  const std::string kind_;
  const Values values_;
};

}  // namespace

JointLoss ProtectionTraining::joint_loss(const TrainingContext& context) const {
  return [&context](EnsembleNet& net, const Batch& b, double) {
    return softmax_cross_entropy(net.forward(context.input(b)), b.labels,
                                 cross_entropy_spec(context.config.stage1()));
  };
}

TrainingResult ProtectionTraining::finish(const TrainingContext&, const Stage1& stage1) const {
  const SingleNet& net = *stage1.nets[0];
  TrainingResult result{net.head(), net.tail(), {net.body()}, Selector(1, {0}), net.protection()};
  result.accuracy = stage1.accuracies[0];
  return result;
}

std::unique_ptr<ProtectionTraining> make_protection_training(const RunConfig& config) {
  using Factory = std::unique_ptr<ProtectionTraining> (*)();
  static const Factory kFactories[] = {
#define PROTECTION(kind, ...) kind##_protection,
#define FEATURE_PROTECTION(kind, ...)                              \
  []() -> std::unique_ptr<ProtectionTraining> {                    \
    return std::make_unique<StepOnFeatures>(#kind, kind##_values); \
  },
#include "proto/protections.inc"
#undef FEATURE_PROTECTION
#undef PROTECTION
  };
  const std::string& kind = protection_info(config.protection().kind()).kind;
  return kFactories[protection_rank(kind)]();
}

void copy_noise_settings(const RunConfig& config, RunConfig& identity) {
  if (config.ensemble().sigma() == 0) return;
  identity.mutable_ensemble()->set_sigma(config.ensemble().sigma());
  if (config.protection().fresh_noise()) identity.mutable_protection()->set_fresh_noise(true);
}

}  // namespace ens
