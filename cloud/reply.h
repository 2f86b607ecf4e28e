// SPDX-License-Identifier: Apache-2.0
// Replies: each request that was read gets exactly one.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "net/message.h"
#include "nn/core/tensor.h"
#include "proto/status.h"
#include "proto/wire.pb.h"

namespace ens {

struct Outgoing {
  WireFrame peer;      // the client, see Message
  std::string client;  // the name of its key; empty without keys
  wire::Reply header;
  Tensor tensor;                      // undefined: header only
  wire::DType dtype = wire::FLOAT32;  // how the tensor is wanted
};

// Where replies go, and how many are still owed. Thread-safe.
class Outbox {
 public:
  // deliver: called by the thread that has a reply; must not throw.
  explicit Outbox(std::function<void(Outgoing)> deliver) : deliver_(std::move(deliver)) {}

  // Requests that were read and whose reply was not delivered yet.
  int64_t pending() const { return pending_.load(); }

 private:
  friend class ReplyOnce;

  const std::function<void(Outgoing)> deliver_;
  std::atomic<int64_t> pending_{0};
};

// The duty to reply to one request, exactly once. A request that was dropped gets the reply
// INTERNAL from the destructor. Movable; one thread at a time.
class ReplyOnce {
 public:
  // client: the name of its key, if there are keys.
  ReplyOnce(std::shared_ptr<Outbox> outbox, WireFrame peer, uint64_t id, std::string client = "");
  ~ReplyOnce();
  ReplyOnce(ReplyOnce&& other) noexcept = default;
  ReplyOnce& operator=(ReplyOnce&& other) noexcept;

  const std::string& client() const { return client_; }
  void send(const Status& status);
  void send(wire::Reply header, Tensor tensor = {},
            wire::DType dtype = wire::FLOAT32);  // `id` is filled in

 private:
  std::shared_ptr<Outbox> outbox_;  // empty once replied, or moved away
  WireFrame peer_;
  uint64_t id_;
  std::string client_;
};

}  // namespace ens
