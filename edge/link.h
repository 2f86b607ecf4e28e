// SPDX-License-Identifier: Apache-2.0
// Link: requests to one cloud and their replies, over connections that come and go.
//
// Survives a cloud that restarts, is busy, drains, or loses messages: a request is sent again, with
// the same id and the same features, until its deadline, and where there are replicas to the next
// of them. Late, repeated and unknown replies are ignored. One thread at a time.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "net/client_socket.h"
#include "nn/core/tensor.h"
#include "proto/config.pb.h"
#include "proto/status.h"
#include "proto/wire.pb.h"

namespace ens {

// A request and its reply.
struct Exchange {
  // Filled by the caller.
  wire::Request request;  // Link sets version, id and, for INFER, timeout_ms
  Tensor features;        // undefined: no tensor frame
  // Filled by Link.
  wire::Reply reply;
  double round_trip_ms = 0;                    // of the attempt that got the reply
  int64_t bytes_sent = 0, bytes_received = 0;  // headers included, all attempts
};

class Link {
 public:
  using Clock = std::chrono::steady_clock;
  using Prepare = std::function<Status(size_t)>;
  using Accept = std::function<Status(size_t, const WireFrame*)>;

  // Starts connecting in the background. max_reply: bytes of the largest frame to accept. Error for
  // bad addresses or key files; usage Error for plain text outside loopback without `insecure`.
  Link(const CloudPart& part, const EdgeConfig& config, int64_t max_reply);

  // Of part.cloud's addresses, the one in use.
  const std::string& address() const { return socket_.address(); }

  // Runs the exchanges in order, at most two at a time. prepare(i) fills exchanges[i] right before
  // its request is first sent, while earlier ones are pending; if that fails, nothing more is sent.
  // accept(i, frame) judges an OK reply
  // (in exchanges[i].reply) and its tensor frame (nullptr: none). The first final failure ends all:
  // a deadline that passed, or what prepare(), the reply or accept() says.
  Status run(std::vector<Exchange>& exchanges, const Prepare& prepare, const Accept& accept);
  // From any thread, for good: run() ends at once with UNAVAILABLE.
  void cancel() { socket_.cancel(); }

 private:
  struct PendingCall {  // an exchange that has begun
    size_t index = 0;
    uint64_t id = 0;
    int attempts = 0;
    bool sent = false;            // and neither replied to nor lost yet
    Clock::time_point deadline;   // timeout_ after it began
    Clock::time_point next_send;  // when to send the request, or to send it again
    Clock::time_point sent_at;
    Status last_failure;  // of the latest attempt
  };
  using PendingCalls = std::vector<PendingCall>;

  bool send(Exchange& exchange, PendingCall& call);  // false: no connection now
  void schedule_retry(PendingCall& call, Status why);
  // Waits for the next thing to do, but not beyond `wake`.
  Status wait(Clock::time_point wake, bool for_sending);
  // Takes every reply that has come; erases the calls that are done.
  Status receive(std::vector<Exchange>& exchanges, PendingCalls& calls, const Accept& accept);
  Status handle(std::vector<Exchange>& exchanges, PendingCalls& calls, Message& message,
                const Accept& accept);
  // Follows the connection's events. Not OK: no attempt can succeed.
  Status watch_connection(PendingCalls& calls);
  // Why a call's deadline passed without a reply.
  Status deadline_status(const PendingCall& call) const;
  Status handshake_status() const;
  // Whether handshakes fail for the keys, and not because a server restarts or a proxy hangs up.
  bool keys_are_wrong() const;
  void reconnect();
  // Goes on to the next replica, if there is one: what was sent is sent again there.
  void fail_over(PendingCalls& calls, const Status& why);

  const std::chrono::milliseconds timeout_;
  const bool encrypted_;
  ClientSocket socket_;
  uint64_t next_id_ = 1;
  bool reached_ = false;          // a TCP connection stood at some time
  bool ready_ = false;            // a connection stands now, and its handshake is done
  bool handshaking_ = false;      // TCP stands, and the handshake is not done
  bool was_ready_ = false;        // with these keys a handshake was done at some time
  size_t failed_handshakes_ = 0;  // in a row
  bool gave_up_ = false;          // the last run ended without a connection
  Clock::time_point connecting_since_ = Clock::now();
};

}  // namespace ens
