#include "offload/worker/worker.h"

#include <spdlog/spdlog.h>

#include <atomic>
#include <map>

#include "net/limits.h"
#include "net/server_socket.h"
#include "offload/wire/messages.h"
#include "offload/worker/jobs.h"

namespace ens {
namespace {

std::span<const std::byte> bytes_of(const WireFrame& frame) {
  return {static_cast<const std::byte*>(frame.data()), frame.size()};
}

ServerEvents log_events() {
  ServerEvents events;
  events.keys_changed = [](const AllowedKeys::Change& change) {
    if (change.error.empty()) {
      spdlog::info("event=keys_changed before={} now={}", change.before, change.now);
    } else {
      spdlog::error("event=keys_unreadable kept={} reason=\"{}\"", change.now, change.error);
    }
  };
  events.accepted = [](const std::string& client) {
    spdlog::info("event=connected client={}", client);
  };
  return events;
}

}  // namespace

struct Worker::Impl {
  explicit Impl(const WorkerConfig& config)
      : security(read_server_security(config.bind(), config.secret_key(), config.clients(),
                                      config.insecure())),
        device(parse_device(config.device())),
        jobs(device, config.weights_mb() << 20, config.record()),
        socket(config.bind(), security, kMaxFrameBytes, log_events()) {
    spdlog::info("event=serving address={} device={} curve={} record={}", socket.endpoint(),
                 backend(device).description(), security.has_value(), !config.record().empty());
  }

  void run() {
    Message message;
    while (!stop.load()) {
      socket.wait(std::chrono::milliseconds(-1));
      while (!stop.load() && socket.receive(message)) {
        if (message.frames == 0) continue;
        const bool too_long = message.header.size() > limits::kMaxRequestHeader;
        JobReply reply =
            jobs.reply(too_long ? std::span<const std::byte>{} : bytes_of(message.header),
                       bytes_of(message.tensor), message.frames);
        ++replies[name(static_cast<StatusCode>(reply.header.code()))];
        socket.send(std::move(message.peer), reply.header, std::move(reply.tensor));
      }
    }
    for (const auto& [code, count] : replies)
      spdlog::info("event=replies code={} count={}", code, count);
  }

  const std::optional<ServerSecurity> security;
  const Device device;
  Jobs jobs;
  ServerSocket socket;
  std::atomic<bool> stop{false};
  std::map<std::string, int64_t> replies;  // by status code
};

Worker::Worker(const WorkerConfig& config) : impl_(std::make_unique<Impl>(config)) {}
Worker::~Worker() = default;

std::string Worker::endpoint() const { return impl_->socket.endpoint(); }
void Worker::run() { impl_->run(); }
void Worker::request_stop() {
  impl_->stop.store(true);
  impl_->socket.wake();
}

}  // namespace ens
