// SPDX-License-Identifier: Apache-2.0
#include "cloud/server.h"

#include <spdlog/spdlog.h>

#include <cstring>
#include <thread>

#include "base/error.h"
#include "cloud/batch_queue.h"
#include "cloud/frontend.h"
#include "cloud/metrics.h"
#include "cloud/served_bundle.h"
#include "net/http/probes.h"
#include "nn/core/backend.h"
#include "proto/tensor_codec.h"

namespace ens {
namespace {

using std::chrono::microseconds;

// The requests of a batch as one tensor.
Tensor merge(const std::vector<Job>& jobs, const Shape& input) {
  int64_t images = 0;
  for (const Job& job : jobs) images += job.images;
  Tensor merged = Tensor::empty(batched(images, input));
  int64_t first = 0;
  for (const Job& job : jobs) {
    decode(job.encoding, job.features.data(), merged.rows(first, job.images));
    first += job.images;
  }
  return merged;
}

// outputs [N, B, ...] -> those of images [first, first+count), of all N nets.
Tensor pick(const Tensor& outputs, int64_t first, int64_t count) {
  if (count == outputs.dim(1)) return outputs;
  Shape shape = outputs.shape();
  shape.set(1, count);
  Tensor out = Tensor::empty(shape);
  const size_t image_bytes = outputs.bytes() / static_cast<size_t>(outputs.dim(0) * outputs.dim(1));
  for (int64_t net = 0; net < outputs.dim(0); ++net) {
    std::memcpy(
        static_cast<std::byte*>(out.host()) + static_cast<size_t>(net * count) * image_bytes,
        static_cast<const std::byte*>(outputs.host()) +
            static_cast<size_t>(net * outputs.dim(1) + first) * image_bytes,
        static_cast<size_t>(count) * image_bytes);
  }
  return out;
}

}  // namespace

const char* name(Server::State state) {
  switch (state) {
    case Server::State::kStarting:
      return "starting";
    case Server::State::kReady:
      return "ready";
    case Server::State::kDraining:
      return "draining";
    case Server::State::kStopped:
      return "stopped";
  }
  return "?";
}

struct Server::Impl {
  explicit Impl(const CloudConfig& c)
      : config(c),
        security(read_server_security(c.bind(), c.secret_key(), c.clients(), c.insecure())),
        server_key(security ? security->keys.public_key : ""),
        queue({c.max_batch(), c.max_queue(), microseconds(c.batch_delay_us()), c.max_client_queue(),
               c.max_client_rate()}),
        metrics([this] { return queue.waiting(); }),
        frontend(c.bind(), std::make_shared<ServedBundles>(c), security, queue, metrics) {
    log_served();
    if (!c.http().empty()) {
      http.emplace(c.http(), HttpLimits(),
                   HttpProbes{[this] { return state.load() != State::kStopped; },
                              [this] { return state.load() == State::kReady; },
                              [this] { return metrics.text(); }});
      spdlog::info("event=http address={}", http->address());
    }
  }

  void log_served() {
    for (const auto& served : frontend.served()->all()) log_bundle(*served);
    metrics.publish(*frontend.served(), ens::name(state.load()));
  }

  void log_bundle(const ServedBundle& served) const {
    // Where the processor lacks the instructions, bfloat16 is for the weights only.
    const bool weights_only =
        served.dtype == Dtype::kBF16 && !backend(served.devices[0]).supports(Dtype::kBF16);
    spdlog::info(
        "event=serving nets={} of={} data={} fingerprint={} device={} dtype={} arithmetic={} "
        "lanes={} max_batch={} curve={}",
        fmt::join(served.shard, ","), served.info.nets, served.info.data,
        served.fingerprint_hex().substr(0, 16), str(served.devices), ens::name(served.dtype),
        ens::name(weights_only ? Dtype::kF32 : served.dtype), served.lanes.count(),
        config.max_batch(), security.has_value());
  }

  // A bundle goes with the last request that was accepted for it.
  void log_retired(const ServedBundles& before, const ServedBundles& now) const {
    for (const auto& old : before.all()) {
      if (!now.find(old->info.fingerprint)) {
        spdlog::info("event=retired fingerprint={}", old->fingerprint_hex().substr(0, 16));
      }
    }
  }

  void reload_key() {
    if (!security) return;
    KeyPair keys = read_secret_key(config.secret_key());
    if (keys.public_key == server_key) return;
    server_key = keys.public_key;
    frontend.set_keys(std::move(keys));
  }

  bool reload() {
    const std::lock_guard lock(reloading);
    frontend.reread_keys();
    try {
      reload_key();
      const auto before = frontend.served();
      const auto now = std::make_shared<const ServedBundles>(config, before.get());
      frontend.publish(now);
      log_retired(*before, *now);
    } catch (const std::exception& e) {
      spdlog::error("event=reload_failed reason=\"{}\" what_was_served_stays=true", e.what());
      metrics.reloaded(false);
      return false;
    }
    metrics.reloaded(true);
    log_served();
    return true;
  }

  void set(State next) {
    state.store(next);
    state.notify_all();
    metrics.publish(*frontend.served(), ens::name(next));
    spdlog::info("event=state state={}", ens::name(next));
  }

  void read_requests() {
    try {
      frontend.run(
          stop, [this] { set(State::kDraining), queue.close(); },
          std::chrono::milliseconds(config.drain_ms()));
    } catch (const std::exception& e) {
      error = e.what();
      spdlog::error("event=frontend_failed reason=\"{}\"", e.what());
    }
    queue.abandon();  // nothing is left unless the drain took too long
    for (const auto& [code, count] : frontend.sent())
      spdlog::info("event=answers code={} count={}", code, count);
    set(State::kStopped);
  }

  void compute_batches() {
    for (auto jobs = queue.next(); !jobs.empty(); jobs = queue.next()) {
      try {
        compute(jobs);
      } catch (const std::exception& e) {
        queue.finished(jobs, {});
        spdlog::error("event=batch_failed reason=\"{}\"", e.what());
        for (Job& job : jobs) {
          job.reply.send(
              Status{StatusCode::kInternal, "the computation failed; see the cloud's log"});
        }
      }
    }
  }

  void compute(std::vector<Job>& jobs) {
    ServedBundle& served = *jobs[0].served;
    const auto begin = Clock::now();
    const Tensor outputs = served.lanes.run(merge(jobs, served.input));
    const auto compute_time = Clock::now() - begin;
    queue.finished(jobs, compute_time);
    metrics.computed(served, outputs.dim(1), compute_time);
    int64_t first = 0;
    for (Job& job : jobs) {
      wire::Reply header;
      header.set_queue_us(static_cast<uint64_t>(
          std::chrono::duration_cast<microseconds>(begin - job.arrived).count()));
      header.set_compute_us(
          static_cast<uint64_t>(std::chrono::duration_cast<microseconds>(compute_time).count()));
      header.set_fingerprint(served.info.fingerprint);
      for (const int net : served.shard) header.add_part(static_cast<uint32_t>(net));
      metrics.computed_for(job.reply.client(), job.images);
      job.reply.send(std::move(header), pick(outputs, first, job.images), job.reply_dtype);
      metrics.finished(begin - job.arrived, Clock::now() - job.arrived);
      first += job.images;
    }
  }

  const CloudConfig config;
  const std::optional<ServerSecurity> security;
  std::string server_key;  // public; the one in use. Of reload()
  BatchQueue queue;
  Metrics metrics;
  std::atomic<State> state{State::kStarting};
  Frontend frontend;
  std::mutex reloading;
  std::atomic<bool> stop{false};
  std::string error;  // written before kStopped
  std::jthread frontend_thread, compute_thread;
  std::optional<HttpServer> http;  // asks all of the above, so it is destroyed first
};

Server::Server(const CloudConfig& config) : impl_(std::make_unique<Impl>(config)) {}

Server::~Server() {
  if (state() == State::kStarting) return;
  request_stop();
  for (State now = state(); now != State::kStopped; now = state()) impl_->state.wait(now);
}

void Server::start() {
  if (state() != State::kStarting) usage_fail("a server starts once");
  impl_->set(State::kReady);
  impl_->compute_thread = std::jthread([this] { impl_->compute_batches(); });
  impl_->frontend_thread = std::jthread([this] { impl_->read_requests(); });
}

void Server::request_stop() {
  impl_->stop.store(true);
  impl_->frontend.wake();
}

void Server::wait() {
  if (state() == State::kStarting) return;
  for (State now = state(); now != State::kStopped; now = state()) impl_->state.wait(now);
  if (!impl_->error.empty()) fail(impl_->error, "serving");
}

Server::State Server::state() const { return impl_->state.load(); }
std::string Server::endpoint() const { return impl_->frontend.endpoint(); }
std::string Server::http_address() const { return impl_->http ? impl_->http->address() : ""; }
BundleInfo Server::info() const { return impl_->frontend.served()->first()->info; }
bool Server::reload() { return impl_->reload(); }

}  // namespace ens
