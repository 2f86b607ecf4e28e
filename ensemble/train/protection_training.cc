#include "ensemble/train/protection_training.h"

#include "base/error.h"
#include "proto/protections.h"

namespace ens {

TrainingResult ProtectionTraining::finish(const TrainingContext&, const Stage1& stage1) const {
  const SingleNet& net = *stage1.nets[0];
  TrainingResult result{net.head(), net.tail(), {net.body()}, Selector(1, {0}), net.protection()};
  result.accuracy = stage1.accuracies[0];
  return result;
}

std::unique_ptr<ProtectionTraining> make_protection_training(const RunConfig& config) {
  using Factory = std::unique_ptr<ProtectionTraining> (*)();
  constexpr Factory kFactories[] = {
#define PROTECTION(kind, ...) kind##_protection,
#include "proto/protections.inc"
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
