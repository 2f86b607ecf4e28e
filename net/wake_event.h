// WakeEvent: a descriptor that is readable once wake() was called, for a thread that waits in poll.
#pragma once

namespace ens {

class WakeEvent {
 public:
  WakeEvent();  // Error if there is no descriptor left
  ~WakeEvent();
  WakeEvent(const WakeEvent&) = delete;
  WakeEvent& operator=(const WakeEvent&) = delete;

  int fd() const { return fd_; }
  void wake();   // from any thread, async-signal-safe
  void clear();  // not readable until the next wake()

 private:
  const int fd_;
};

}  // namespace ens
