// SPDX-License-Identifier: Apache-2.0
#include "offload/core/assignment.h"

#include <algorithm>
#include <set>
#include <utility>

namespace ens {

ShareAssignment::ShareAssignment(std::vector<int> owners, std::vector<int> order, int shares)
    : owners_(std::move(owners)), order_(std::move(order)), shares_(shares) {}

std::optional<ShareAssignment::Send> ShareAssignment::next() {
  while (at_ < order_.size() && next_share_ < shares_) {
    const int worker = order_[at_++];
    const int owner = owners_[static_cast<size_t>(worker)];
    if (std::ranges::find(served_, owner) != served_.end()) continue;
    served_.push_back(owner);
    return Send{worker, next_share_++};
  }
  return std::nullopt;
}

int count_owners(const std::vector<int>& owners) {
  return static_cast<int>(std::set<int>(owners.begin(), owners.end()).size());
}

}  // namespace ens
