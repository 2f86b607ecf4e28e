// SPDX-License-Identifier: Apache-2.0
// The kinds of protection (protection.kind), as every room may know them: the lines of
// protections.inc. How a kind is trained: ensemble/train/protection_training.h.
#pragma once

#include <string>
#include <vector>

#include "proto/config.pb.h"

namespace ens {

enum class ServerNets {
  kOne,       // one net: ensemble.nets and ensemble.selected are not used
  kJoint,     // ensemble.nets bodies behind one head, at least two, trained together and all used
  kShared,    // as kJoint, or one body
  kSelected,  // ensemble.nets nets; the client uses ensemble.selected of them, in secret
};

struct ProtectionInfo {
  std::string kind;   // "dr_single"
  std::string title;  // "DR-single"
  ServerNets nets;
  bool noise;           // whether it uses ensemble.sigma
  std::string meaning;  // for docs/config.md, as Markdown
};

// In the order of tables.
const std::vector<ProtectionInfo>& protections();
// Null for a kind that is not known.
const ProtectionInfo* find_protection(const std::string& kind);
// Error for a kind that is not known.
const ProtectionInfo& protection_info(const std::string& kind);
// The place in tables; unknown kinds come last.
size_t protection_rank(const std::string& kind);

// Whether all nets are trained together, without a stage 1 of their own.
bool trains_jointly(const RunConfig& config);

// The kind without protection, with which the others are compared.
const std::string& unprotected_kind();
// What protection.kind = "auto" stands for.
std::string automatic_kind(const EnsembleConfig& ensemble);

}  // namespace ens
