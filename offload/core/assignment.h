// SPDX-License-Identifier: Apache-2.0
// Which worker gets which share of one encoding. No owner of workers ever gets a second share of
// it, whatever fails and whoever is asked in its place: so T owners who collude have T shares at
// most.
#pragma once

#include <optional>
#include <vector>

namespace ens {

class ShareAssignment {
 public:
  struct Send {
    int worker = 0, share = 0;
  };

  // owners[w]: the owner of worker w. order: the workers that may be asked, in the order in which
  // they are. shares: how many there are of the encoding.
  ShareAssignment(std::vector<int> owners, std::vector<int> order, int shares);

  // The next share, and the next worker whose owner has none yet; nothing if shares or owners are
  // used up.
  std::optional<Send> next();

 private:
  const std::vector<int> owners_, order_;
  const int shares_;
  size_t at_ = 0;  // in order_
  int next_share_ = 0;
  std::vector<int> served_;  // owners that have a share
};

// How many owners there are among these workers: the most shares of one encoding that can be sent.
int count_owners(const std::vector<int>& owners);

}  // namespace ens
