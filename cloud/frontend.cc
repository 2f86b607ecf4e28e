// SPDX-License-Identifier: Apache-2.0
#include "cloud/frontend.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "net/limits.h"
#include "proto/tensor_codec.h"

namespace ens {
namespace {

using std::chrono::milliseconds;

// How often a draining server looks whether it owes no more replies.
constexpr milliseconds kDrainInterval{5};

Status bad(std::string message) { return {StatusCode::kInvalidArgument, std::move(message)}; }

// Bytes of the largest frame that a right request can have.
int64_t largest_request(const ServedBundles& served) {
  int64_t largest = limits::kMaxRequestHeader;
  for (const auto& bundle : served.all()) {
    largest = std::max(largest, bundle->max_request_batch * bundle->input.numel() * 4);
  }
  return largest;
}

void log_keys(const AllowedKeys::Change& change) {
  if (change.error.empty()) {
    spdlog::info("event=keys_changed before={} now={}", change.before, change.now);
  } else {
    spdlog::error("event=keys_unreadable kept={} reason=\"{}\"", change.now, change.error);
  }
}

// At most one line of a kind in this time: strangers could fill the disk.
constexpr std::chrono::seconds kRefusalInterval{10};

wire::Reply info_reply(const ServedBundle& served) {
  wire::Reply reply;
  reply.set_fingerprint(served.info.fingerprint);
  wire::ServerInfo& info = *reply.mutable_info();
  info.set_nets(static_cast<uint32_t>(served.shard.size()));
  for (const int net : served.shard) info.add_part(static_cast<uint32_t>(net));
  for (int64_t size : served.input.dims()) info.add_input_shape(size);
  for (int64_t size : served.output.dims()) info.add_output_shape(size);
  info.set_max_batch(static_cast<uint32_t>(served.max_request_batch));
  return reply;
}

// Whether `served` can compute an INFER request of its fingerprint; how many images it has.
Status admit(const wire::Request& request, const Message& message, const ServedBundle& served,
             int64_t& images) {
  Shape shape;
  Dtype dtype;
  const int rank = served.input.rank() + 1;
  const int64_t limit =
      std::max(served.max_request_batch, *std::ranges::max_element(served.input.dims()));
  if (Status status =
          check_tensor(request.tensor(), message.tensor.size(), rank, limit, shape, dtype);
      !status.ok()) {
    return status;
  }
  if (!std::ranges::equal(shape.dims().subspan(1), served.input.dims())) {
    return bad("features are " + shape.str() + ", expected " + served.input.str() +
               " for each image");
  }
  if (shape[0] > served.max_request_batch) {
    return bad(std::to_string(shape[0]) + " images in one request, at most " +
               std::to_string(served.max_request_batch));
  }
  images = shape[0];
  return {};
}

}  // namespace

Frontend::Frontend(const std::string& endpoint, std::shared_ptr<const ServedBundles> served,
                   const std::optional<ServerSecurity>& security, BatchQueue& queue,
                   Metrics& metrics)
    : served_(std::move(served)),
      metrics_(metrics),
      socket_(endpoint, security, largest_request(*served_), events()),
      queue_(queue),
      outbox_(std::make_shared<Outbox>([this](Outgoing outgoing) { send(outgoing); })) {}

ServerEvents Frontend::events() {
  ServerEvents events;
  events.keys_changed = &log_keys;
  events.accepted = [this](const std::string& client) {
    spdlog::info("event=connected client={}", client);
    metrics_.server().accepted(client);
  };
  events.connections = [this](int64_t open) {
    open_ = open;
    metrics_.server().connections(open);
  };
  events.refused = [this](Refusal why) {
    metrics_.server().refused(why);
    RefusalLog& log = refusal_logs_[why];
    ++log.count;
    const auto now = Clock::now();
    if (now < log.next) return;
    log.next = now + kRefusalInterval;
    if (why == Refusal::kDescriptors) {
      spdlog::error(
          "event=out_of_descriptors connections={} hint=\"new connections are closed; raise the "
          "limit (ulimit -n, LimitNOFILE=)\"",
          open_);
    } else {
      spdlog::warn("event=refused reason={} count={}", name(why), log.count);
    }
    log.count = 0;
  };
  events.rebound = [] { spdlog::info("event=server_key_changed"); };
  return events;
}

void Frontend::publish(std::shared_ptr<const ServedBundles> served) {
  socket_.set_max_request(largest_request(*served));
  const std::lock_guard lock(mutex_);
  served_.swap(served);
}

std::shared_ptr<const ServedBundles> Frontend::served() const {
  const std::lock_guard lock(mutex_);
  return served_;
}

std::map<std::string, int64_t> Frontend::sent() const {
  const std::lock_guard lock(mutex_);
  return sent_;
}

void Frontend::run(const std::atomic<bool>& stop, const std::function<void()>& on_drain,
                   milliseconds drain_limit) {
  std::optional<Clock::time_point> drain_end;
  Message message;
  while (true) {
    milliseconds limit{-1};
    // The thread that empties the queue may be busy when a deadline passes.
    const auto now = Clock::now();
    if (const auto next = queue_.expire(now); next != Clock::time_point::max()) {
      limit = std::chrono::ceil<milliseconds>(next - now);
    }
    if (drain_end) {
      limit = std::clamp(std::chrono::ceil<milliseconds>(*drain_end - now), milliseconds(0),
                         kDrainInterval);
    }
    socket_.wait(limit);
    // A few at a time, so that a flood of requests does not hold up new handshakes.
    for (int i = 0; i < 64 && socket_.receive(message); ++i) {
      if (message.frames > 0) handle(message);
    }
    if (stop.load() && !drain_end) {
      drain_end = Clock::now() + drain_limit;
      on_drain();
    }
    if (drain_end && (outbox_->pending() == 0 || Clock::now() >= *drain_end)) return;
  }
}

void Frontend::handle(Message& message) {
  const auto now = Clock::now();
  wire::Request request;
  const WireFrame& header = message.header;
  const bool readable = header.size() <= limits::kMaxRequestHeader &&
                        request.ParseFromArray(header.data(), static_cast<int>(header.size()));
  const std::string peer = message.client.empty() ? message.peer.to_string() : "";
  ReplyOnce reply(outbox_, std::move(message.peer), readable ? request.id() : 0, message.client);
  if (!readable) return reply.send(bad("the header frame is not a Request"));
  if (request.version() != kProtocolVersion) {
    return reply.send(Status{StatusCode::kVersionMismatch,
                             "protocol version " + std::to_string(request.version()) + " is not " +
                                 std::to_string(kProtocolVersion)});
  }
  const std::shared_ptr<const ServedBundles> all = this->served();
  std::shared_ptr<ServedBundle> served = all->find(request.fingerprint());
  if (request.kind() == wire::Request::INFO) {
    if (message.frames != 1) return reply.send(bad("an INFO request has one frame"));
    return reply.send(info_reply(served ? *served : *all->first()));
  }
  if (request.kind() != wire::Request::INFER) return reply.send(bad("unknown kind of request"));
  if (message.frames != 2) return reply.send(bad("an INFER request has two frames"));
  if (!served) {
    return reply.send(Status{StatusCode::kFingerprintMismatch,
                             "the edge bundle belongs to other server nets than these"});
  }
  int64_t images = 0;
  if (Status status = admit(request, message, *served, images); !status.ok()) {
    return reply.send(status);
  }
  // Without keys each connection is a client.
  std::string client = message.client.empty() ? "connection " + peer : message.client;
  Job job{.client = std::move(client),
          .served = std::move(served),
          .features = std::move(message.tensor),
          .encoding = std::move(*request.mutable_tensor()),
          .images = images,
          .arrived = now,
          .deadline = request.timeout_ms() == 0 ? Clock::time_point::max()
                                                : now + milliseconds(request.timeout_ms()),
          .reply_dtype = request.reply_dtype(),
          .reply = std::move(reply)};
  if (Status status = queue_.push(job); !status.ok()) job.reply.send(status);
}

void Frontend::send(Outgoing& outgoing) try {
  wire::Reply& header = outgoing.header;
  header.set_version(kProtocolVersion);
  if (header.fingerprint().empty()) header.set_fingerprint(served()->first()->info.fingerprint);
  if (outgoing.tensor.defined()) {
    const Tensor& outputs = outgoing.tensor;
    Encoded encoded = encode(outputs, wire::FLOAT32);  // no copy
    if (outgoing.dtype == wire::FLOAT16 || outgoing.dtype == wire::INT8) {
      // int8 needs finite elements, and float16 ends at 65504.
      Encoded narrow;
      if (all_finite(encoded.frame)) narrow = encode(outputs, outgoing.dtype, Scales::kRows);
      const bool good =
          narrow.frame.defined() && (outgoing.dtype == wire::INT8 || all_finite(narrow.frame));
      if (good) encoded = std::move(narrow);
    }
    *header.mutable_tensor() = std::move(encoded.info);
    outgoing.tensor = std::move(encoded.frame);
  }
  const auto code = static_cast<StatusCode>(header.code());
  metrics_.server().replied(code, outgoing.client);
  {
    const std::lock_guard lock(mutex_);
    ++sent_[name(code)];
  }
  socket_.send(std::move(outgoing.peer), header, std::move(outgoing.tensor));
} catch (const std::exception& e) {
  spdlog::error("event=answer_lost reason=\"{}\"", e.what());
}

}  // namespace ens
