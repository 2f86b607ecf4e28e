// SPDX-License-Identifier: Apache-2.0
// WakeEvent: a descriptor that is readable once wake() was called, for a thread that waits in poll.
#pragma once

#include "base/fd.h"

namespace ens {

class WakeEvent {
 public:
  WakeEvent();  // Error if there is no descriptor left

  int fd() const { return fd_.get(); }
  void wake();   // from any thread, async-signal-safe
  void clear();  // not readable until the next wake()

 private:
  const Fd fd_;
};

}  // namespace ens
