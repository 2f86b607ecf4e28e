// SPDX-License-Identifier: Apache-2.0
// ServerMetrics: what every server of ours counts, in Prometheus' text format: requests, clients
// and connections, never contents. A server adds its own to registry().
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "net/server_socket.h"
#include "proto/status.h"

namespace prometheus {
class Registry;
}

namespace ens {

// Thread-safe; every method is cheap enough for each request.
class ServerMetrics {
 public:
  ServerMetrics();
  ~ServerMetrics();

  prometheus::Registry& registry();

  void replied(StatusCode code, const std::string& client);  // client: its key's name, or empty
  void accepted(const std::string& client);                  // a handshake
  void connections(int64_t open);
  void refused(Refusal why);

  std::string text() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
