#include "cloud/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <atomic>
#include <map>

namespace ens {
namespace {

using prometheus::Histogram;

double seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

// 50 us to 13 s, each twice the one before.
Histogram::BucketBoundaries times() {
  Histogram::BucketBoundaries bounds;
  for (double b = 50e-6; b < 15; b *= 2) bounds.push_back(b);
  return bounds;
}

Histogram::BucketBoundaries batches() {
  return {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096};
}

}  // namespace

struct Metrics::Impl {
  explicit Impl(std::function<int64_t()> queue) : waiting(std::move(queue)) {
    // A series that appears with its first event has no increase to see.
    for (uint32_t code = 0; code < kStatusCodes; ++code) {
      requests.Add({{"code", name(code_from_wire(code))}});
    }
    for (const Refusal why : kRefusals) refused.Add({{"reason", name(why)}});
  }

  prometheus::Registry registry;
  const std::function<int64_t()> waiting;

  prometheus::Family<prometheus::Counter>& requests = prometheus::BuildCounter()
                                                          .Name("ensembler_requests_total")
                                                          .Help("Requests answered, by status code")
                                                          .Register(registry);
  prometheus::Counter& images = prometheus::BuildCounter()
                                    .Name("ensembler_images_total")
                                    .Help("Images computed by all server nets")
                                    .Register(registry)
                                    .Add({});
  prometheus::Gauge& depth = prometheus::BuildGauge()
                                 .Name("ensembler_queue_images")
                                 .Help("Images waiting to be computed")
                                 .Register(registry)
                                 .Add({});
  prometheus::Histogram& batch = prometheus::BuildHistogram()
                                     .Name("ensembler_batch_images")
                                     .Help("Images computed together")
                                     .Register(registry)
                                     .Add({}, batches());
  prometheus::Family<Histogram>& latency =
      prometheus::BuildHistogram()
          .Name("ensembler_latency_seconds")
          .Help("Of requests: queue; compute (a batch); total, from received to answered")
          .Register(registry);
  Histogram& queue_time = latency.Add({{"part", "queue"}}, times());
  Histogram& compute_time = latency.Add({{"part", "compute"}}, times());
  Histogram& total_time = latency.Add({{"part", "total"}}, times());
  prometheus::Family<prometheus::Counter>& reloads = prometheus::BuildCounter()
                                                         .Name("ensembler_reloads_total")
                                                         .Help("Bundles loaded again")
                                                         .Register(registry);
  prometheus::Counter& reloads_ok = reloads.Add({{"result", "ok"}});
  prometheus::Counter& reloads_failed = reloads.Add({{"result", "failed"}});
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
  prometheus::Family<prometheus::Gauge>& info = prometheus::BuildGauge()
                                                    .Name("ensembler_info")
                                                    .Help("1 for what is served now")
                                                    .Register(registry);
  std::mutex info_mutex;
  prometheus::Gauge* current = nullptr;
};

Metrics::Metrics(std::function<int64_t()> waiting)
    : impl_(std::make_unique<Impl>(std::move(waiting))) {}
Metrics::~Metrics() = default;

void Metrics::publish(const ServedBundle& served, const std::string& state) {
  const std::lock_guard lock(impl_->info_mutex);
  if (impl_->current) impl_->info.Remove(impl_->current);
  impl_->current = &impl_->info.Add({{"fingerprint", served.fingerprint_hex().substr(0, 16)},
                                     {"nets", std::to_string(served.shard.size())},
                                     {"device", str(served.devices)},
                                     {"dtype", name(served.dtype)},
                                     {"state", state}});
  impl_->current->Set(1);
}

void Metrics::replied(StatusCode code) { impl_->requests.Add({{"code", name(code)}}).Increment(); }

void Metrics::computed(int64_t images, std::chrono::nanoseconds compute) {
  impl_->images.Increment(static_cast<double>(images));
  impl_->batch.Observe(static_cast<double>(images));
  impl_->compute_time.Observe(seconds(compute));
}

void Metrics::finished(std::chrono::nanoseconds queued, std::chrono::nanoseconds total) {
  impl_->queue_time.Observe(seconds(queued));
  impl_->total_time.Observe(seconds(total));
}

void Metrics::reloaded(bool ok) { (ok ? impl_->reloads_ok : impl_->reloads_failed).Increment(); }

void Metrics::accepted(const std::string& client) {
  impl_->handshakes.Add({{"client", client}}).Increment();
}

void Metrics::connections(int64_t open) { impl_->connections.Set(static_cast<double>(open)); }

void Metrics::refused(Refusal why) { impl_->refused.Add({{"reason", name(why)}}).Increment(); }

std::string Metrics::text() const {
  impl_->depth.Set(static_cast<double>(impl_->waiting()));
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace ens
