// Answers on their way from whichever thread has them to the one thread that owns the socket.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>
#include <zmq.hpp>

#include "nn/core/tensor.h"
#include "proto/status.h"
#include "proto/wire.pb.h"

namespace ens {

struct Outgoing {
  zmq::message_t peer;  // ROUTER's name for the client's connection
  wire::Reply header;
  Tensor tensor;  // undefined: header only
};

// Filled by any thread, emptied by the frontend, which polls fd().
class Outbox {
 public:
  Outbox();  // Error if the system has no descriptor left
  ~Outbox();
  Outbox(const Outbox&) = delete;
  Outbox& operator=(const Outbox&) = delete;

  std::vector<Outgoing> take();   // all of it; also resets fd()
  int fd() const { return fd_; }  // readable when there is something to take, and after wake()
  void wake();                    // async-signal-safe

  // Requests that were read and whose answer is not in the outbox yet.
  int64_t unanswered() const { return unanswered_.load(); }

 private:
  friend class ReplyOnce;
  void put(Outgoing outgoing);

  int fd_;
  std::mutex mutex_;
  std::vector<Outgoing> waiting_;
  std::atomic<int64_t> unanswered_{0};
};

// The duty to answer one request, exactly once. If nobody did, the destructor answers INTERNAL: no
// path is silent. Movable; used by one thread at a time.
class ReplyOnce {
 public:
  ReplyOnce(std::shared_ptr<Outbox> outbox, zmq::message_t peer, uint64_t id);
  ~ReplyOnce();
  ReplyOnce(ReplyOnce&& other) noexcept = default;
  ReplyOnce& operator=(ReplyOnce&& other) noexcept;

  void send(const Status& status);
  void send(wire::Reply header, Tensor tensor = {});  // `id` is filled in

 private:
  std::shared_ptr<Outbox> outbox_;  // empty once answered (or moved away)
  zmq::message_t peer_;
  uint64_t id_;
};

}  // namespace ens
