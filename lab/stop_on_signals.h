// SPDX-License-Identifier: Apache-2.0
// Ctrl-C and SIGTERM as a request to stop.
#pragma once

#include <atomic>
#include <stop_token>
#include <thread>

namespace ens {

// While alive, the first SIGINT or SIGTERM requests a stop, so that trainings and attacks end at
// their next step; the second ends the process at once, as without it. One at a time.
class StopOnSignals {
 public:
  StopOnSignals();
  ~StopOnSignals();
  StopOnSignals(const StopOnSignals&) = delete;
  StopOnSignals& operator=(const StopOnSignals&) = delete;

  std::stop_token token() const { return source_.get_token(); }

 private:
  std::stop_source source_;
  std::atomic<bool> over_{false};
  std::thread thread_;  // requests the stop, which a signal handler must not
};

}  // namespace ens
