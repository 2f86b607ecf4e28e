// Link: requests to one cloud and their answers, over connections that come and go.
//
// Survives a cloud that restarts, is busy, drains, or loses messages: a request is sent again, with
// the same id and the same features, until its time is up; where there are replicas, to the next of
// them. Answers that are late, repeated or to no request of ours are ignored. Used by one thread at
// a time.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "nn/core/tensor.h"
#include "proto/config.pb.h"
#include "proto/status.h"
#include "proto/wire.pb.h"

namespace ens {

struct Call {
  // Filled by the caller.
  wire::Request request;  // Link sets version, id and, for INFER, timeout_ms
  Tensor payload;         // undefined: no tensor frame
  // Filled by Link.
  wire::Reply reply;
  double round_trip_ms = 0;                    // of the attempt that was answered
  int64_t bytes_sent = 0, bytes_received = 0;  // headers included, all attempts
};

class Link {
 public:
  using Clock = std::chrono::steady_clock;

  // Starts connecting in the background. max_reply: bytes of the largest frame to accept. Error for
  // bad addresses or key files; usage Error for plain text outside loopback without `insecure`.
  Link(const CloudPart& part, const EdgeConfig& config, int64_t max_reply);

  // The one that is asked now, of part.cloud's addresses.
  const std::string& address() const { return addresses_[at_]; }

  // Runs the calls, at most `window` of them under way, in order. prepare(i) fills calls[i] right
  // before it is first sent, while earlier ones are under way. accept(i, frame) judges an OK reply
  // (in calls[i].reply) and its tensor frame (nullptr: none). The first failure that is final ends
  // it all: a call's time was up, or the cloud's answer or accept() says so.
  Status exchange(std::vector<Call>& calls, const std::function<void(size_t)>& prepare,
                  const std::function<Status(size_t, const zmq::message_t*)>& accept);

 private:
  struct Open {  // a call under way
    size_t index = 0;
    uint64_t id = 0;
    int attempts = 0;
    bool sent = false;           // and not yet answered or lost
    Clock::time_point deadline;  // timeout_ after it was begun
    Clock::time_point due;       // when to send, or send again
    Clock::time_point sent_at;
    Status last;  // why the last attempt failed
  };

  bool send(Call& call, Open& open);  // false: no connection now
  void postpone(Open& open, Status why);
  Status receive(std::vector<Call>& calls, std::vector<Open>& open, size_t& done,
                 const std::function<Status(size_t, const zmq::message_t*)>& accept);
  Status watch_connection(std::vector<Open>& open);  // reads the monitor; a Status that ends it all
  Status out_of_time(const Open& open) const;
  Status broken_handshake() const;
  void reconnect();
  // To the next replica, if there are any; what was under way is sent again there.
  void move_on(std::vector<Open>& open, const Status& why);

  const std::vector<std::string> addresses_;  // of replicas, at least one
  size_t at_ = 0;
  const std::chrono::milliseconds timeout_;
  const bool encrypted_;
  zmq::context_t context_;
  zmq::socket_t socket_;
  zmq::socket_t monitor_;
  uint64_t next_id_ = 1;
  bool reached_ = false;       // a TCP connection stood at some time
  bool ready_ = false;         // a connection with handshake done stands now
  bool handshaking_ = false;   // TCP stands, ZeroMQ's greeting is not over
  int failed_handshakes_ = 0;  // in a row
  bool given_up_ = false;      // the last exchange ended without a connection
  Clock::time_point connecting_since_ = Clock::now();
};

}  // namespace ens
