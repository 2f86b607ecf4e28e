// SPDX-License-Identifier: Apache-2.0
#include "cloud/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <vector>

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
  explicit Impl(std::function<int64_t()> queue) : waiting(std::move(queue)) {}

  const std::function<int64_t()> waiting;
  ServerMetrics server;
  prometheus::Registry& registry = server.registry();

  prometheus::Family<prometheus::Counter>& images =
      prometheus::BuildCounter()
          .Name("ensembler_images_total")
          .Help("Images computed by all server nets, by the bundle's fingerprint")
          .Register(registry);
  prometheus::Family<prometheus::Counter>& client_images =
      prometheus::BuildCounter()
          .Name("ensembler_client_images_total")
          .Help("Images computed, by the name of the client's key")
          .Register(registry);
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
  prometheus::Family<prometheus::Gauge>& info = prometheus::BuildGauge()
                                                    .Name("ensembler_info")
                                                    .Help("1 for what is served now")
                                                    .Register(registry);
  std::mutex info_mutex;
  std::vector<prometheus::Gauge*> current;
};

Metrics::Metrics(std::function<int64_t()> waiting)
    : impl_(std::make_unique<Impl>(std::move(waiting))) {}
Metrics::~Metrics() = default;

void Metrics::publish(const ServedBundles& served, const std::string& state) {
  const std::lock_guard lock(impl_->info_mutex);
  for (prometheus::Gauge* old : impl_->current) impl_->info.Remove(old);
  impl_->current.clear();
  for (const auto& bundle : served.all()) {
    const std::string fingerprint = bundle->fingerprint_hex().substr(0, 16);
    impl_->images.Add({{"fingerprint", fingerprint}});
    impl_->current.push_back(&impl_->info.Add({{"fingerprint", fingerprint},
                                               {"nets", std::to_string(bundle->shard.size())},
                                               {"device", str(bundle->devices)},
                                               {"dtype", name(bundle->dtype)},
                                               {"state", state}}));
    impl_->current.back()->Set(1);
  }
}

void Metrics::computed(const ServedBundle& served, int64_t images,
                       std::chrono::nanoseconds compute) {
  impl_->images.Add({{"fingerprint", served.fingerprint_hex().substr(0, 16)}})
      .Increment(static_cast<double>(images));
  impl_->batch.Observe(static_cast<double>(images));
  impl_->compute_time.Observe(seconds(compute));
}

void Metrics::computed_for(const std::string& client, int64_t images) {
  if (client.empty()) return;
  impl_->client_images.Add({{"client", client}}).Increment(static_cast<double>(images));
}

void Metrics::finished(std::chrono::nanoseconds queued, std::chrono::nanoseconds total) {
  impl_->queue_time.Observe(seconds(queued));
  impl_->total_time.Observe(seconds(total));
}

void Metrics::reloaded(bool ok) { (ok ? impl_->reloads_ok : impl_->reloads_failed).Increment(); }

ServerMetrics& Metrics::server() { return impl_->server; }

std::string Metrics::text() const {
  impl_->depth.Set(static_cast<double>(impl_->waiting()));
  return impl_->server.text();
}

}  // namespace ens
