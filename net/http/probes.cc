// SPDX-License-Identifier: Apache-2.0
#include "net/http/probes.h"

namespace ens {

HttpReply HttpProbes::operator()(const HttpRequest& request) const {
  const auto text = [](unsigned status, std::string body, const char* type = "text/plain") {
    return HttpReply{.status = status, .type = type, .body = std::move(body)};
  };
  const auto probe = [&](bool good) { return good ? text(200, "ok\n") : text(503, "no\n"); };
  if (request.method != "GET") return text(405, "GET and HEAD only\n");
  if (request.path == "/healthz") return probe(alive());
  if (request.path == "/readyz") return probe(ready());
  if (request.path == "/metrics") return text(200, metrics(), "text/plain; version=0.0.4");
  return text(404, "not here\n");
}

}  // namespace ens
