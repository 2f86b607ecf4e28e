// SPDX-License-Identifier: Apache-2.0
// WorkerLink: one job at a time for one worker, in a thread of its own.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "net/client_socket.h"
#include "nn/core/int8_layer.h"
#include "nn/plan/int8.h"
#include "proto/offload.pb.h"
#include "proto/status.h"

namespace ens {

// A layer, and what the wire says of it.
struct WorkerLayer {
  Int8Layer layer;
  offload::Layer described;
};
// Those of each group of `net`.
std::vector<std::vector<std::shared_ptr<const WorkerLayer>>> worker_layers(const Int8Net& net);

struct WorkerJob {
  offload::Request request;  // HELLO, or JOB; the link sets version and id
  Tensor frame;              // undefined: none
  // JOB: its layers, in their order. HELLO: layers to load as well. A worker that lacks one is sent
  // it.
  std::vector<std::shared_ptr<const WorkerLayer>> layers;
};

struct WorkerReply {
  int worker = 0;
  uint64_t ticket = 0;  // of post()
  Status status;
  offload::Reply header;
  WireFrame frame;
  bool has_frame = false;
};

struct WorkerTraffic {
  int64_t sent = 0, received = 0;  // bytes, headers included
  int64_t refused = 0;             // replies to no request of ours, or to an earlier one
};

class WorkerLink {
 public:
  // timeout: for one product, or the weights of one layer. done: called by the link's thread,
  // unless the job was given up.
  WorkerLink(int worker, const std::string& address, std::optional<ClientSecurity> security,
             std::chrono::milliseconds timeout, std::function<void(WorkerReply)> done);
  ~WorkerLink();

  const std::string& address() const { return address_; }
  // The job takes the place of the one before, which is given up if it is still pending. Its
  // ticket.
  uint64_t post(WorkerJob job);
  void give_up();  // the job that is pending, if any
  // Whether the worker still computes, as far as is known: what is sent now waits for that.
  bool owes_reply() const;
  WorkerTraffic traffic() const;

 private:
  struct Impl;
  const std::string address_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
