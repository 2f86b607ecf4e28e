// SPDX-License-Identifier: Apache-2.0
// Newest: of several requests of one page only the newest is worth an answer.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "studio/site.h"

namespace ens {

// Thread-safe.
class Newest {
 public:
  struct Ticket {
    std::string visitor;
    uint64_t number = 0;
  };
  // visitor: a page, as it calls itself.
  Ticket take(const std::string& visitor) {
    std::lock_guard lock(mutex_);
    if (newest_.size() > 1000) newest_.clear();
    Ticket ticket{visitor.substr(0, 64), ++tickets_};
    newest_[ticket.visitor] = ticket.number;
    return ticket;
  }
  // Refusal 409 if a newer request of the same page has come since.
  void check(const Ticket& ticket, const char* what) {
    std::lock_guard lock(mutex_);
    if (newest_[ticket.visitor] != ticket.number)
      throw Refusal(409, "a newer request has taken its place", what);
  }

 private:
  std::mutex mutex_;
  uint64_t tickets_ = 0;
  std::map<std::string, uint64_t> newest_;
};

}  // namespace ens
