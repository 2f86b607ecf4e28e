// SPDX-License-Identifier: Apache-2.0
// HttpServer: health and metrics over HTTP, for orchestrators and Prometheus. Plain text, without
// any secret; bind it where only they can reach it.
#pragma once

#include <functional>
#include <memory>
#include <string>

namespace ens {

class HttpServer {
 public:
  struct Pages {
    std::function<bool()> alive;           // GET /healthz: 200 or 503
    std::function<bool()> ready;           // GET /readyz: 200 or 503
    std::function<std::string()> metrics;  // GET /metrics
  };
  // "HOST:PORT", port 0 for any free one. Serves on a thread of its own until it is destroyed.
  // Error if it cannot listen.
  HttpServer(const std::string& address, Pages pages);
  ~HttpServer();

  std::string address() const;  // with the real port

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
