// SPDX-License-Identifier: Apache-2.0
// The worker's server: reads requests, computes, replies; one after the other.
#pragma once

#include <memory>
#include <string>

#include "proto/config.pb.h"

namespace ens {

class Worker {
 public:
  // `config` is complete(). Binds. Error for a bad address, key file or folder, and for plain text
  // outside loopback without `insecure`.
  explicit Worker(const WorkerConfig& config);
  ~Worker();

  std::string endpoint() const;      // with the real port
  std::string http_address() const;  // of health and metrics; empty: none
  void run();                        // until request_stop()
  void request_stop();               // from any thread, async-signal-safe

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
