// SPDX-License-Identifier: Apache-2.0
#include "offload/host/worker_link.h"

#include <atomic>
#include <mutex>
#include <thread>
#include <utility>

#include "offload/wire/messages.h"

namespace ens {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kConnectTimeout{1000};  // before a worker counts as gone
constexpr milliseconds kReopenPause{500};      // where libzmq does not connect again by itself

}  // namespace

std::vector<std::vector<std::shared_ptr<const WorkerLayer>>> worker_layers(const Int8Net& net) {
  std::vector<std::vector<std::shared_ptr<const WorkerLayer>>> layers;
  for (const Int8Group& group : net.groups) {
    auto& all = layers.emplace_back();
    for (const Int8Step& step : group.steps) {
      all.push_back(std::make_shared<WorkerLayer>(WorkerLayer{step.layer, describe(step.layer)}));
    }
  }
  return layers;
}

struct WorkerLink::Impl {
  Impl(int worker_, std::string address_, std::optional<ClientSecurity> security,
       milliseconds timeout_, std::function<void(WorkerReply)> done_)
      : worker(worker_),
        address(std::move(address_)),
        timeout(timeout_),
        encrypted(security.has_value()),
        done(std::move(done_)),
        socket({address}, std::move(security), kMaxFrameBytes),
        thread([this] { work(); }) {}

  ~Impl() {
    socket.cancel();
    thread.join();
  }

  void work() {
    while (!socket.cancelled()) {
      std::optional<std::pair<uint64_t, WorkerJob>> job;
      {
        const std::lock_guard lock(mutex);
        if (next) job.emplace(ticket.load(), *std::exchange(next, std::nullopt));
      }
      WorkerReply reply;
      reply.worker = worker;
      try {
        if (!job) {
          idle();
          continue;
        }
        reply.ticket = job->first;
        reply.status = run(job->second, reply);
      } catch (const std::exception& error) {  // such as no descriptors left for a connection
        problem = reply.status = {StatusCode::kUnavailable, address + ": " + error.what()};
        reopen_at = Clock::now() + kReopenPause;
        if (!job) std::this_thread::sleep_for(kReopenPause / 5);
      }
      if (job && !abandoned(job->first)) done(std::move(reply));
    }
  }

  void idle() {
    if (!socket.wait(kReopenPause, false).ok()) std::this_thread::sleep_for(kReopenPause / 5);
    WorkerReply late;
    receive(0, late);
    watch_connection(false);
  }

  bool abandoned(uint64_t of) const { return socket.cancelled() || ticket.load() != of; }

  Status run(WorkerJob& job, WorkerReply& reply) {
    const bool hello = job.request.kind() == offload::Request::HELLO;
    if (Status status = exchange(job.request, job.frame, reply); hello || !status.ok()) {
      if (hello && status.ok()) return load(job, reply);
      if (status.code != StatusCode::kFingerprintMismatch) return status;
      // It has started anew, or never had them.
      if (Status loaded = load(job, reply); !loaded.ok()) return loaded;
      if (status = exchange(job.request, job.frame, reply); !status.ok()) return status;
    }
    return {};
  }

  Status load(const WorkerJob& job, WorkerReply& reply) {
    for (const auto& layer : job.layers) {
      offload::Request request;
      request.set_kind(offload::Request::LOAD);
      *request.mutable_layer() = layer->described;
      Status status = exchange(request, {}, reply);
      if (status.code == StatusCode::kFingerprintMismatch) {
        status = exchange(request, layer->layer.weight, reply);
      }
      if (!status.ok()) return status;
    }
    return {};
  }

  // Sends until there is a connection, and waits for the reply.
  Status exchange(offload::Request& request, const Tensor& frame, WorkerReply& reply) {
    const auto deadline = Clock::now() + timeout;
    request.set_version(kOffloadVersion);
    request.set_id(++last_id);
    bool was_sent = false;
    const auto unreachable = std::min(deadline, Clock::now() + kConnectTimeout);
    while (!abandoned(reply.ticket)) {
      if (!was_sent) {
        const int64_t bytes = socket.send(request, frame);
        was_sent = bytes > 0;
        if (was_sent) awaited = request.id();
        sent += bytes;
      }
      const auto limit =
          std::chrono::ceil<milliseconds>((was_sent ? deadline : unreachable) - Clock::now());
      if (limit <= milliseconds(0)) {
        if (was_sent) return {StatusCode::kDeadlineExceeded, "no reply from " + address};
        if (!problem.ok()) return problem;
        const std::string why = socket.name_problem();
        return {StatusCode::kUnavailable,
                "cannot reach " + address +
                    (why.empty() ? "; is ensembler-worker running there?" : ": " + why)};
      }
      if (Status status = socket.wait(std::min(limit, kReopenPause), !was_sent); !status.ok())
        return status;
      if (receive(request.id(), reply)) {
        if (reply.header.version() != kOffloadVersion) {
          return {StatusCode::kVersionMismatch,
                  address + " speaks version " + std::to_string(reply.header.version()) +
                      " of the workers' protocol, not " + std::to_string(kOffloadVersion)};
        }
        const StatusCode code = code_from_wire(reply.header.code());
        return {code, code == StatusCode::kOk ? "" : address + ": " + reply.header.message()};
      }
      if (Status lost = watch_connection(was_sent); !lost.ok()) return lost;
    }
    return {StatusCode::kUnavailable, "given up"};
  }

  // Whether the reply to this request has come.
  bool receive(uint64_t id, WorkerReply& reply) {
    Message message;
    while (socket.receive(message)) {
      const bool has_frame = message.frames == 2;
      received +=
          static_cast<int64_t>(message.header.size() + (has_frame ? message.tensor.size() : 0));
      const bool parsed = message.frames <= 2 &&
                          reply.header.ParseFromArray(message.header.data(),
                                                      static_cast<int>(message.header.size()));
      if (parsed && reply.header.id() == awaited) awaited = 0;
      if (!parsed || reply.header.id() != id) {
        ++refused;
        continue;
      }
      reply.frame = std::move(message.tensor);
      reply.has_frame = has_frame;
      return true;
    }
    return false;
  }

  // Follows the connection. Not OK: what it means for a request that was sent, or waits to be.
  Status watch_connection(bool was_sent) {
    using Event = ClientSocket::Event;
    Status lost;
    while (const auto event = socket.next_event()) {
      switch (*event) {
        case Event::kConnected:
          handshaking = true;
          break;
        case Event::kReady:
          handshaking = false;
          problem = {};
          reopen_at.reset();
          break;
        case Event::kKeyRefused:
          lost = {StatusCode::kUnauthenticated, address + " does not allow this client's key"};
          break;
        case Event::kHandshakeImpossible:
          lost = {StatusCode::kUnauthenticated,
                  address + " closed the connection during the handshake: keys on one side only"};
          break;
        case Event::kHandshakeFailed:
        case Event::kDisconnected:
          awaited = 0;
          if (was_sent) lost = {StatusCode::kUnavailable, "lost the connection to " + address};
          if (!std::exchange(handshaking, false)) break;
          // Also a worker that goes away: connected again in the background, in case it comes back.
          problem = {StatusCode::kUnauthenticated,
                     address + " closed the connection during the handshake: " +
                         (encrypted ? "wrong key?" : "is it an ensembler-worker?")};
          socket.use_next_server_key();
          break;
      }
      if (lost.code == StatusCode::kUnauthenticated) {
        handshaking = false;
        problem = lost;
        reopen_at = Clock::now() + kReopenPause;
      }
    }
    if (reopen_at && Clock::now() >= *reopen_at) {
      reopen_at.reset();
      socket.connect_to_next();
    }
    return lost;
  }

  const int worker;
  const std::string address;
  const milliseconds timeout;
  const bool encrypted;
  const std::function<void(WorkerReply)> done;
  ClientSocket socket;
  uint64_t last_id = 0;
  bool handshaking = false;
  Status problem;  // why there is no connection; OK: there is one, or nothing is known
  std::optional<Clock::time_point> reopen_at;
  std::atomic<uint64_t> awaited{0};  // the request that was sent last; 0: its reply has come
  std::atomic<int64_t> sent{0}, received{0}, refused{0};
  std::mutex mutex;  // of `next`
  std::optional<WorkerJob> next;
  std::atomic<uint64_t> ticket{0};  // of the job that is wanted
  std::thread thread;
};

WorkerLink::WorkerLink(int worker, const std::string& address,
                       std::optional<ClientSecurity> security, milliseconds timeout,
                       std::function<void(WorkerReply)> done)
    : address_(address),
      impl_(
          std::make_unique<Impl>(worker, address, std::move(security), timeout, std::move(done))) {}
WorkerLink::~WorkerLink() = default;

uint64_t WorkerLink::post(WorkerJob job) {
  uint64_t ticket = 0;
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->next = std::move(job);
    ticket = ++impl_->ticket;
  }
  impl_->socket.wake();
  return ticket;
}

void WorkerLink::give_up() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->next.reset();
    ++impl_->ticket;
  }
  impl_->socket.wake();
}

bool WorkerLink::owes_reply() const { return impl_->awaited.load() != 0; }

WorkerTraffic WorkerLink::traffic() const {
  return {impl_->sent.load(), impl_->received.load(), impl_->refused.load()};
}

}  // namespace ens
