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

Status bad_reply(const std::string& address, const std::string& what) {
  return {StatusCode::kInternal, address + " sent " + what};
}

}  // namespace

struct WorkerLink::Impl {
  Impl(int worker_, std::string address_, std::optional<ClientSecurity> security,
       milliseconds timeout_, std::function<void(WorkerReply)> done_)
      : worker(worker_),
        address(std::move(address_)),
        timeout(timeout_),
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
      if (!job) {
        socket.wait(milliseconds(1000), false);
        drain(std::nullopt);
        continue;
      }
      WorkerReply reply;
      reply.worker = worker;
      reply.ticket = job->first;
      reply.status = run(job->second, reply);
      if (!abandoned(job->first)) done(std::move(reply));
    }
  }

  bool abandoned(uint64_t of) const { return socket.cancelled() || ticket.load() != of; }

  Status run(WorkerJob& job, WorkerReply& reply) {
    const auto deadline = Clock::now() + timeout;
    const bool hello = job.request.kind() == offload::Request::HELLO;
    if (Status status = exchange(job.request, job.frame, deadline, reply); hello || !status.ok()) {
      if (hello && status.ok()) return load(job, deadline, reply);
      if (status.code != StatusCode::kFingerprintMismatch) return status;
      // It has started anew, or never had them.
      if (Status loaded = load(job, deadline, reply); !loaded.ok()) return loaded;
      if (status = exchange(job.request, job.frame, deadline, reply); !status.ok()) return status;
    }
    const offload::Job& asked = job.request.job();
    if (reply.header.session() != asked.session() || reply.header.step() != asked.step() ||
        reply.header.share() != asked.share()) {
      return bad_reply(address, "the products of another job");
    }
    return {};
  }

  Status load(const WorkerJob& job, Clock::time_point deadline, WorkerReply& reply) {
    for (const auto& layer : job.layers) {
      offload::Request request;
      request.set_kind(offload::Request::LOAD);
      *request.mutable_layer() = layer->described;
      Status status = exchange(request, {}, deadline, reply);
      if (status.code == StatusCode::kFingerprintMismatch) {
        status = exchange(request, layer->layer.weight, deadline, reply);
      }
      if (!status.ok()) return status;
    }
    return {};
  }

  // Sends until there is a connection, and waits for the reply.
  Status exchange(offload::Request& request, const Tensor& frame, Clock::time_point deadline,
                  WorkerReply& reply) {
    request.set_version(kOffloadVersion);
    request.set_id(++last_id);
    bool was_sent = false;
    const auto unreachable = std::min(deadline, Clock::now() + kConnectTimeout);
    while (!abandoned(reply.ticket)) {
      if (!was_sent) {
        const int64_t bytes = socket.send(request, frame);
        was_sent = bytes > 0;
        sent += bytes;
      }
      const auto limit =
          std::chrono::ceil<milliseconds>((was_sent ? deadline : unreachable) - Clock::now());
      if (limit <= milliseconds(0)) {
        const std::string why = socket.name_problem();
        return was_sent ? Status{StatusCode::kDeadlineExceeded, "no reply from " + address}
                        : Status{StatusCode::kUnavailable,
                                 "cannot reach " + address +
                                     (why.empty() ? "; is ensembler-worker running there?"
                                                  : ": " + why)};
      }
      if (Status status = socket.wait(limit, !was_sent); !status.ok()) return status;
      if (receive(request.id(), reply)) {
        if (reply.header.version() != kOffloadVersion) {
          return {StatusCode::kVersionMismatch,
                  address + " speaks version " + std::to_string(reply.header.version()) +
                      " of the workers' protocol, not " + std::to_string(kOffloadVersion)};
        }
        const StatusCode code = code_from_wire(reply.header.code());
        return {code, code == StatusCode::kOk ? "" : address + ": " + reply.header.message()};
      }
      if (const std::optional<Status> lost = drain(was_sent)) return *lost;
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
      if (message.frames > 2 ||
          !reply.header.ParseFromArray(message.header.data(),
                                       static_cast<int>(message.header.size())) ||
          reply.header.id() != id) {
        ++refused;
        continue;
      }
      reply.frame = std::move(message.tensor);
      reply.has_frame = has_frame;
      return true;
    }
    return false;
  }

  // Follows the connection; what it means for a request that was sent, or waits to be.
  std::optional<Status> drain(std::optional<bool> was_sent) {
    using Event = ClientSocket::Event;
    std::optional<Status> lost;
    while (const auto event = socket.next_event()) {
      if (*event == Event::kKeyRefused) {
        lost = {StatusCode::kUnauthenticated, address + " does not allow this client's key"};
      } else if (*event == Event::kHandshakeImpossible) {
        lost = {StatusCode::kUnauthenticated,
                address + " breaks off the handshake: keys on one side only"};
        if (was_sent) socket.connect_to_next();  // libzmq does not try again
      } else if (*event == Event::kDisconnected && was_sent.value_or(false)) {
        lost = {StatusCode::kUnavailable, "lost the connection to " + address};
      }
    }
    if (!was_sent) lost.reset();
    return lost;
  }

  const int worker;
  const std::string address;
  const milliseconds timeout;
  const std::function<void(WorkerReply)> done;
  ClientSocket socket;
  uint64_t last_id = 0;
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

WorkerTraffic WorkerLink::traffic() const {
  return {impl_->sent.load(), impl_->received.load(), impl_->refused.load()};
}

}  // namespace ens
