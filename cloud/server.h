// The cloud's server: states, threads, and what it reports.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "ensemble/model/bundle.h"
#include "proto/config.h"

namespace ens {

// Loads the bundle, compiles N plans, binds the socket, answers until stop(). Owns all its threads:
// a Frontend (sole owner of the socket), a bounded BatchQueue, and Lanes that compute.
class Server {
 public:
  enum class State { kStarting, kReady, kDraining, kStopped };

  // Error for a bad bundle, address or key file, and for plain text outside loopback without
  // `insecure`.
  explicit Server(const CloudConfig& config);
  ~Server();

  void start();          // returns when ready
  void request_stop();   // refuse new work, answer what was accepted; async-signal-safe
  void wait();           // until stopped and drained
  State state() const;
  std::string endpoint() const;  // the bound address, with the real port ("tcp://127.0.0.1:40123")

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
