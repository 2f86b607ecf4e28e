// SPDX-License-Identifier: Apache-2.0
// Health and metrics over HTTP, for orchestrators and Prometheus. Plain text, without any secret;
// bind it where only they can reach it.
#pragma once

#include <functional>
#include <string>

#include "net/http/server.h"

namespace ens {

struct HttpProbes {
  std::function<bool()> alive;           // GET /healthz: 200 or 503
  std::function<bool()> ready;           // GET /readyz: 200 or 503
  std::function<std::string()> metrics;  // GET /metrics

  HttpReply operator()(const HttpRequest& request) const;
};

}  // namespace ens
