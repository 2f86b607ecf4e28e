// SPDX-License-Identifier: Apache-2.0
#include "offload/worker/worker.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <map>
#include <optional>

#include "net/http/probes.h"
#include "net/limits.h"
#include "net/metrics/server_metrics.h"
#include "net/server_socket.h"
#include "offload/wire/messages.h"
#include "offload/worker/jobs.h"

namespace ens {
namespace {

std::span<const std::byte> bytes_of(const WireFrame& frame) {
  return {static_cast<const std::byte*>(frame.data()), frame.size()};
}

// What an operator watches: counts, sizes and times, never contents.
class WorkerMetrics {
 public:
  void replied(const offload::Reply& header, const std::string& client, size_t received,
               size_t sent) {
    server.replied(static_cast<StatusCode>(header.code()), client);
    received_.Increment(static_cast<double>(received));
    sent_.Increment(static_cast<double>(sent));
    if (sent > 0) job_time_.Observe(static_cast<double>(header.compute_us()) / 1e6);
  }
  void keeps(int64_t weight_bytes) { weights_.Set(static_cast<double>(weight_bytes)); }

  ServerMetrics server;

 private:
  prometheus::Counter& counter(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(server.registry()).Add({});
  }
  // 50 us to 26 s, each four times the one before.
  static prometheus::Histogram::BucketBoundaries times() {
    prometheus::Histogram::BucketBoundaries bounds;
    for (double b = 50e-6; b < 50; b *= 4) bounds.push_back(b);
    return bounds;
  }

  prometheus::Counter& received_ =
      counter("ensembler_worker_received_bytes_total", "Bytes of shares and weights received");
  prometheus::Counter& sent_ =
      counter("ensembler_worker_sent_bytes_total", "Bytes of products sent");
  prometheus::Gauge& weights_ = prometheus::BuildGauge()
                                    .Name("ensembler_worker_weights_bytes")
                                    .Help("Weights that are kept for clients")
                                    .Register(server.registry())
                                    .Add({});
  prometheus::Histogram& job_time_ = prometheus::BuildHistogram()
                                         .Name("ensembler_worker_job_seconds")
                                         .Help("Computing the products of one share")
                                         .Register(server.registry())
                                         .Add({}, times());
};

// The worker's key for sealed shares is that of its connections: one key is to be pinned.
std::optional<Seed> seal_secret(const std::optional<ServerSecurity>& security) {
  if (!security) return std::nullopt;
  return key_bytes(security->keys.secret_key.z85());
}

}  // namespace

struct Worker::Impl {
  explicit Impl(const WorkerConfig& config)
      : security(read_server_security(config.bind(), config.secret_key(), config.clients(),
                                      config.insecure())),
        device(parse_device(config.device())),
        jobs(device, config.weights_mb() << 20, config.record(), seal_secret(security)),
        socket(config.bind(), security, kMaxFrameBytes, events()) {
    spdlog::info("event=serving address={} device={} curve={} record={}", socket.endpoint(),
                 backend(device).description(), security.has_value(), !config.record().empty());
    if (config.http().empty()) return;
    http.emplace(config.http(), HttpLimits(),
                 HttpProbes{[this] { return !stopped.load(); },
                            [this] { return running.load() && !stop.load(); },
                            [this] { return metrics.server.text(); }});
    spdlog::info("event=http address={}", http->address());
  }

  ServerEvents events() {
    ServerEvents events;
    events.keys_changed = [](const AllowedKeys::Change& change) {
      if (change.error.empty()) {
        spdlog::info("event=keys_changed before={} now={}", change.before, change.now);
      } else {
        spdlog::error("event=keys_unreadable kept={} reason=\"{}\"", change.now, change.error);
      }
    };
    events.accepted = [this](const std::string& client) {
      spdlog::info("event=connected client={}", client);
      metrics.server.accepted(client);
    };
    events.connections = [this](int64_t open) { metrics.server.connections(open); };
    events.refused = [this](Refusal why) { metrics.server.refused(why); };
    return events;
  }

  void run() {
    Message message;
    running = true;
    while (!stop.load()) {
      socket.wait(std::chrono::milliseconds(-1));
      while (!stop.load() && socket.receive(message)) {
        if (message.frames == 0) continue;
        const bool too_long = message.header.size() > limits::kMaxRequestHeader;
        JobReply reply =
            jobs.reply(too_long ? std::span<const std::byte>{} : bytes_of(message.header),
                       bytes_of(message.tensor), message.frames);
        ++replies[name(static_cast<StatusCode>(reply.header.code()))];
        metrics.replied(reply.header, message.client, message.tensor.size(),
                        reply.tensor.defined() ? reply.tensor.bytes() : 0);
        metrics.keeps(jobs.weight_bytes());
        socket.send(std::move(message.peer), reply.header, std::move(reply.tensor));
      }
    }
    stopped = true;
    for (const auto& [code, count] : replies)
      spdlog::info("event=replies code={} count={}", code, count);
  }

  const std::optional<ServerSecurity> security;
  const Device device;
  Jobs jobs;
  WorkerMetrics metrics;
  ServerSocket socket;
  std::atomic<bool> running{false}, stop{false}, stopped{false};
  std::map<std::string, int64_t> replies;  // by status code
  std::optional<HttpServer> http;          // asks all of the above, so it is destroyed first
};

Worker::Worker(const WorkerConfig& config) : impl_(std::make_unique<Impl>(config)) {}
Worker::~Worker() = default;

std::string Worker::endpoint() const { return impl_->socket.endpoint(); }
std::string Worker::http_address() const { return impl_->http ? impl_->http->address() : ""; }
void Worker::run() { impl_->run(); }
void Worker::request_stop() {
  impl_->stop.store(true);
  impl_->socket.wake();
}

}  // namespace ens
