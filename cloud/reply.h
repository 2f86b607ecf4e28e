// The duty to answer, from reading a request to sending its answer.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <utility>
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

// Where answers go, and how many are still owed. Thread-safe.
class Outbox {
 public:
  // deliver: called by whichever thread has an answer; must not throw.
  explicit Outbox(std::function<void(Outgoing)> deliver) : deliver_(std::move(deliver)) {}

  // Requests that were read and whose answer was not delivered yet.
  int64_t unanswered() const { return unanswered_.load(); }

 private:
  friend class ReplyOnce;

  const std::function<void(Outgoing)> deliver_;
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
