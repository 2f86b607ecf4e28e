// SPDX-License-Identifier: Apache-2.0
// The cloud's server: states, threads, and what it reports.
#pragma once

#include <memory>
#include <string>

#include "ensemble/model/bundle.h"
#include "proto/config.h"

namespace ens {

// Loads the bundle, compiles N plans, binds the socket, and serves until it is stopped. Owns all
// its threads: a Frontend that reads requests, a bounded BatchQueue with the thread that empties
// it, and the Lanes that compute. The methods may be called from any thread.
class Server {
 public:
  enum class State { kStarting, kReady, kDraining, kStopped };

  // `config` is complete(). Error for a bad bundle, address or key file, and for plain text outside
  // loopback without `insecure`. Bound and compiled when it returns; serves from start() on.
  explicit Server(const CloudConfig& config);
  ~Server();  // request_stop(), wait()

  void start();
  void request_stop();  // refuse new work, compute what was accepted; async-signal-safe
  void wait();  // until drained (at most drain_ms after request_stop). Error if serving failed
  // Reads the bundles, the server's key and the clients' keys again. Requests accepted before are
  // computed by the bundle they were accepted for. If a bundle cannot be served, that is logged,
  // and those that were served stay: false.
  bool reload();
  State state() const;
  std::string endpoint() const;  // the bound address, with the real port ("tcp://127.0.0.1:40123")
  std::string http_address() const;  // HOST:PORT of health and metrics; empty: off
  BundleInfo info() const;           // of the first bundle

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

const char* name(Server::State state);

}  // namespace ens
