// SPDX-License-Identifier: Apache-2.0
#include "proto/protections.h"

#include <algorithm>

#include "base/error.h"

namespace ens {

const std::vector<ProtectionInfo>& protections() {
  static const std::vector<ProtectionInfo> kProtections = {
#define PROTECTION(kind, title, nets, noise, meaning) \
  {#kind, title, ServerNets::nets, noise, meaning},
#define FEATURE_PROTECTION(kind, title, meaning) PROTECTION(kind, title, kOne, false, meaning)
#include "proto/protections.inc"
#undef FEATURE_PROTECTION
#undef PROTECTION
  };
  return kProtections;
}

size_t protection_rank(const std::string& kind) {
  const auto& all = protections();
  return static_cast<size_t>(std::ranges::find(all, kind, &ProtectionInfo::kind) - all.begin());
}

const ProtectionInfo* find_protection(const std::string& kind) {
  const size_t rank = protection_rank(kind);
  return rank < protections().size() ? &protections()[rank] : nullptr;
}

const ProtectionInfo& protection_info(const std::string& kind) {
  const ProtectionInfo* found = find_protection(kind);
  if (!found) usage_fail("protection.kind = '" + kind + "' is not known");
  return *found;
}

bool trains_jointly(const RunConfig& config) {
  const ServerNets nets = protection_info(config.protection().kind()).nets;
  return nets == ServerNets::kJoint || nets == ServerNets::kShared;
}

const std::string& unprotected_kind() { return protections().front().kind; }

std::string automatic_kind(const EnsembleConfig& ensemble) {
  return ensemble.nets() > 1 ? "ensembler" : ensemble.sigma() > 0 ? "single" : unprotected_kind();
}

}  // namespace ens
