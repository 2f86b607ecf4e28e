// SPDX-License-Identifier: Apache-2.0
#include "edge/link.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/strings.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

using std::chrono::milliseconds;

constexpr size_t kWindow = 2;  // the edge computes one while the cloud computes another
// A single failed handshake can be a restart; three in a row, with each of the server's keys, by a
// server that greets us mean wrong keys.
constexpr size_t kFailedHandshakes = 3;
constexpr milliseconds kFirstPause{20}, kLongestPause{1000};
constexpr milliseconds kReplicaTimeout{500};  // to connect, before the next replica is tried

std::vector<std::string> split_addresses(const std::string& text) {
  std::vector<std::string> addresses = split_text(text, ',');
  if (addresses.empty()) usage_fail("no address", "cloud", "write tcp://HOST:PORT");
  return addresses;
}

}  // namespace

Link::Link(const CloudPart& part, const EdgeConfig& config, int64_t max_reply)
    : timeout_(config.timeout_ms()),
      encrypted_(!config.secret_key().empty()),
      socket_(split_addresses(part.cloud()),
              read_client_security(split_addresses(part.cloud()), config.secret_key(),
                                   part.server_key(), config.insecure()),
              max_reply) {}

Status Link::run(std::vector<Exchange>& exchanges, const Prepare& prepare, const Accept& accept) {
  PendingCalls calls;
  size_t next = 0;
  if (std::exchange(gave_up_, false)) {
    reconnect();
    failed_handshakes_ = 0;
  }
  while (next < exchanges.size() || !calls.empty()) {
    if (calls.size() < kWindow && next < exchanges.size()) {
      if (Status status = prepare(next); !status.ok()) return status;
      const auto now = Clock::now();
      calls.push_back(
          {.index = next++, .id = next_id_++, .deadline = now + timeout_, .next_send = now});
    }
    bool blocked = false;  // a request should be sent, but there is no connection
    const bool more = calls.size() < kWindow && next < exchanges.size();
    auto wake = more ? Clock::now() : Clock::time_point::max();
    for (PendingCall& call : calls) {
      const auto now = Clock::now();
      if (now >= call.deadline) {
        gave_up_ = !ready_;
        return deadline_status(call);
      }
      if (now >= call.next_send && !send(exchanges[call.index], call)) blocked = true;
      wake = std::min({wake, call.deadline, call.next_send > now ? call.next_send : call.deadline});
    }
    if (Status status = wait(wake, blocked); !status.ok()) return status;
    if (socket_.cancelled()) return {StatusCode::kUnavailable, "the call was broken off"};
    // Replies come first: a cloud may reply and close the connection.
    if (Status status = receive(exchanges, calls, accept); !status.ok()) return status;
    if (Status status = watch_connection(calls); !status.ok()) {
      gave_up_ = true;
      return status;
    }
    if (!ready_ && Clock::now() - connecting_since_ > kReplicaTimeout) {
      fail_over(calls, {StatusCode::kUnavailable, "cannot reach " + address()});
    }
  }
  return {};
}

Status Link::wait(Clock::time_point wake, bool for_sending) {
  if (!ready_ && socket_.replicas() > 1) {
    wake = std::min<Clock::time_point>(wake, connecting_since_ + kReplicaTimeout);
  }
  const auto limit = std::chrono::ceil<milliseconds>(wake - Clock::now());
  return socket_.wait(std::max(limit, milliseconds(0)), for_sending);
}

// libzmq does not try again after a protocol error. By the next call the cloud may have been
// mended, or this client's key allowed.
void Link::reconnect() {
  socket_.connect_to_next();
  ready_ = handshaking_ = reached_ = false;
  connecting_since_ = Clock::now();
}

void Link::fail_over(PendingCalls& calls, const Status& why) {
  if (socket_.replicas() == 1) return;
  for (PendingCall& call : calls) {
    if (call.sent) schedule_retry(call, why);
  }
  reconnect();
}

bool Link::send(Exchange& exchange, PendingCall& call) {
  const auto now = Clock::now();
  wire::Request& request = exchange.request;
  request.set_version(kProtocolVersion);
  request.set_id(call.id);
  if (request.kind() == wire::Request::INFER) {
    const auto left = std::chrono::ceil<milliseconds>(call.deadline - now);
    // The first attempt states the whole timeout: what is sent must not depend on how long anything
    // took on the edge.
    request.set_timeout_ms(static_cast<uint32_t>((call.attempts == 0 ? timeout_ : left).count()));
  }
  const int64_t bytes = socket_.send(request, exchange.features);
  if (bytes == 0) return false;
  exchange.bytes_sent += bytes;
  ++call.attempts;
  call.sent = true;
  call.sent_at = now;
  // A request or reply that was lost silently: without a reply by half the time it is sent again.
  call.next_send = call.attempts == 1 ? now + timeout_ / 2 : call.deadline;
  return true;
}

void Link::schedule_retry(PendingCall& call, Status why) {
  call.sent = false;
  call.last_failure = std::move(why);
  const auto pause = std::min(kLongestPause, kFirstPause * (1 << std::min(call.attempts, 10)));
  // Half of the pause is random, so that many edges do not come back all at once.
  const auto jitter = milliseconds(secure_random() % static_cast<uint64_t>(pause.count() / 2 + 1));
  call.next_send = Clock::now() + pause / 2 + jitter;
}

Status Link::receive(std::vector<Exchange>& exchanges, PendingCalls& calls, const Accept& accept) {
  Message message;
  while (socket_.receive(message)) {
    if (Status status = handle(exchanges, calls, message, accept); !status.ok()) return status;
  }
  return {};
}

Status Link::handle(std::vector<Exchange>& exchanges, PendingCalls& calls, Message& message,
                    const Accept& accept) {
  const WireFrame& header = message.header;
  wire::Reply reply;
  if (message.frames > 2 || !reply.ParseFromArray(header.data(), static_cast<int>(header.size()))) {
    return {StatusCode::kInternal, address() + " sent something that is not a Reply"};
  }
  const auto call = std::ranges::find(calls, reply.id(), &PendingCall::id);
  if (call == calls.end()) return {};  // late, repeated, or to no request of ours
  ready_ = true;
  const bool has_tensor = message.frames == 2;
  Exchange& exchange = exchanges[call->index];
  exchange.bytes_received +=
      static_cast<int64_t>(header.size() + (has_tensor ? message.tensor.size() : 0));
  if (reply.version() != kProtocolVersion) {
    return {StatusCode::kVersionMismatch, "the cloud speaks protocol version " +
                                              std::to_string(reply.version()) + ", not " +
                                              std::to_string(kProtocolVersion)};
  }
  const Status status{code_from_wire(reply.code()), reply.message()};
  switch (status.code) {
    case StatusCode::kOk:
      break;
    case StatusCode::kResourceExhausted:
    case StatusCode::kUnavailable:
      if (call->sent) {  // else it waits for another attempt already
        schedule_retry(*call, status);
        fail_over(calls, status);
      }
      return {};
    case StatusCode::kDeadlineExceeded:
      call->last_failure = status;  // may be an earlier attempt's: the latest may still succeed
      return {};
    default:
      return status;
  }
  exchange.round_trip_ms =
      std::chrono::duration<double, std::milli>(Clock::now() - call->sent_at).count();
  exchange.reply = std::move(reply);
  if (Status verdict = accept(call->index, has_tensor ? &message.tensor : nullptr); !verdict.ok()) {
    return verdict;
  }
  calls.erase(call);
  return {};
}

Status Link::watch_connection(PendingCalls& calls) {
  using Event = ClientSocket::Event;
  while (const std::optional<Event> event = socket_.next_event()) {
    switch (*event) {
      case Event::kConnected:
        reached_ = true;
        handshaking_ = true;
        break;
      case Event::kReady:
        ready_ = was_ready_ = true;
        handshaking_ = false;
        failed_handshakes_ = 0;
        break;
      case Event::kKeyRefused:
        return {StatusCode::kUnauthenticated,
                "the cloud at " + address() +
                    " does not allow this client's key; add its .pub file to the cloud's "
                    "--clients"};
      case Event::kHandshakeImpossible:
      case Event::kHandshakeFailed:
      case Event::kDisconnected:
        if (*event == Event::kHandshakeImpossible) return handshake_status();
        if (std::exchange(handshaking_, false)) {
          ++failed_handshakes_;
          if (keys_are_wrong()) return handshake_status();
          socket_.use_next_server_key();
        }
        if (!std::exchange(ready_, false)) break;
        connecting_since_ = Clock::now();
        for (PendingCall& call : calls) {
          if (call.sent) {
            schedule_retry(call, {StatusCode::kUnavailable, "lost the connection to " + address()});
          }
        }
        break;
    }
  }
  return {};
}

bool Link::keys_are_wrong() const {
  const size_t limit = kFailedHandshakes * socket_.server_keys() * socket_.replicas();
  return encrypted_ && !was_ready_ && failed_handshakes_ % limit == 0 && socket_.greets();
}

Status Link::handshake_status() const {
  return {
      StatusCode::kUnauthenticated,
      address() +
          (encrypted_
               ? " closed the connection during the handshake: --server-key is not its key (most "
                 "likely), or it serves plain text"
               : " closed the connection during the handshake: it expects encryption (set "
                 "--server-key and --secret-key), or is not an "
                 "ensembler-cloud")};
}

Status Link::deadline_status(const PendingCall& call) const {
  const std::string waited = " within " + std::to_string(timeout_.count()) + " ms";
  const Status& failure = call.last_failure;
  if (failure.ok() && failed_handshakes_ >= kFailedHandshakes) return handshake_status();
  if (!reached_) {
    const std::string name = socket_.name_problem();
    return {StatusCode::kUnavailable,
            "cannot reach " + address() + waited +
                (name.empty() ? "; is ensembler-cloud running there?" : ": " + name)};
  }
  if (!failure.ok()) {
    return {failure.code, failure.message + "; no reply" + waited + ", tried " +
                              std::to_string(call.attempts) + " times"};
  }
  if (failed_handshakes_ > 0 || !ready_) {
    return {StatusCode::kUnavailable, "no handshake with " + address() + waited +
                                          "; is it an ensembler-cloud, and are the keys right?"};
  }
  return {StatusCode::kDeadlineExceeded, "no reply from " + address() + waited};
}

}  // namespace ens
