// SPDX-License-Identifier: Apache-2.0
// A file that one process at a time holds (flock). The system frees it when its holder dies, so a
// lock that was left behind never blocks anybody. Not for network file systems that ignore flock.
#pragma once

#include <filesystem>

#include "base/fd.h"

namespace ens {

class FileLock {
 public:
  // Creates `file` with `mode` if it is not there and waits until nobody else holds it. Error if
  // the file cannot be made or locked.
  static FileLock wait_for(const std::filesystem::path& file, unsigned mode = 0600);
  // The same without waiting: `taken()` if another process holds it. The holder's process id is
  // kept in the file, for messages.
  static FileLock try_once(const std::filesystem::path& file, unsigned mode = 0600);

  bool taken() const { return taken_; }
  long owner() const { return owner_; }  // the holder's process id if taken() and known; else 0

 private:
  Fd fd_;
  bool taken_ = false;
  long owner_ = 0;
};

}  // namespace ens
