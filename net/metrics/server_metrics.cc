// SPDX-License-Identifier: Apache-2.0
#include "net/metrics/server_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

namespace ens {

struct ServerMetrics::Impl {
  Impl() {
    // A series that appears with its first event has no increase to see.
    for (uint32_t code = 0; code < kStatusCodes; ++code) {
      requests.Add({{"code", name(code_from_wire(code))}});
    }
    for (const Refusal why : kRefusals) refused.Add({{"reason", name(why)}});
  }

  prometheus::Registry registry;
  prometheus::Family<prometheus::Counter>& requests = prometheus::BuildCounter()
                                                          .Name("ensembler_requests_total")
                                                          .Help("Requests answered, by status code")
                                                          .Register(registry);
  prometheus::Family<prometheus::Counter>& client_requests =
      prometheus::BuildCounter()
          .Name("ensembler_client_requests_total")
          .Help("Requests answered, by the name of the client's key and status code")
          .Register(registry);
  prometheus::Family<prometheus::Counter>& refused =
      prometheus::BuildCounter()
          .Name("ensembler_refused_total")
          .Help("Connections and messages refused, by reason")
          .Register(registry);
  prometheus::Gauge& connections = prometheus::BuildGauge()
                                       .Name("ensembler_connections")
                                       .Help("Connections of clients, handshakes included")
                                       .Register(registry)
                                       .Add({});
  prometheus::Family<prometheus::Counter>& handshakes =
      prometheus::BuildCounter()
          .Name("ensembler_client_connections_total")
          .Help("Handshakes done, by the name of the client's key")
          .Register(registry);
};

ServerMetrics::ServerMetrics() : impl_(std::make_unique<Impl>()) {}
ServerMetrics::~ServerMetrics() = default;

prometheus::Registry& ServerMetrics::registry() { return impl_->registry; }

void ServerMetrics::replied(StatusCode code, const std::string& client) {
  impl_->requests.Add({{"code", name(code)}}).Increment();
  if (!client.empty()) {
    impl_->client_requests.Add({{"client", client}, {"code", name(code)}}).Increment();
  }
}

void ServerMetrics::accepted(const std::string& client) {
  impl_->handshakes.Add({{"client", client}}).Increment();
}

void ServerMetrics::connections(int64_t open) { impl_->connections.Set(static_cast<double>(open)); }

void ServerMetrics::refused(Refusal why) {
  impl_->refused.Add({{"reason", name(why)}}).Increment();
}

std::string ServerMetrics::text() const {
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace ens
