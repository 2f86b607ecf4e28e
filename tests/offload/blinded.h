// SPDX-License-Identifier: Apache-2.0
// A small int8 network of random weights, its bundle, and workers as threads and as processes, for
// tests.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "ensemble/model/blinded_bundle.h"
#include "net/server_socket.h"
#include "offload/worker/jobs.h"
#include "proto/config.h"

namespace ens::test {

// ResNet-18 of width 8 for 16x16 images: strided shortcuts, residuals, pooling, a product at the
// end.
BlindedBundle random_blinded_bundle(uint64_t seed);
// images as the bundle's model takes them, in [0, 1].
Tensor random_pixels(const ModelSpec& model, int64_t count, uint64_t seed);

// A worker in a thread of this process, which replies as `tamper` leaves its replies.
class ThreadWorker {
 public:
  using Tamper = std::function<void(const offload::Request& request, JobReply& reply)>;
  explicit ThreadWorker(Tamper tamper);
  ~ThreadWorker();
  std::string endpoint() const { return socket_.endpoint(); }
  int64_t jobs() const { return jobs_done_.load(); }

 private:
  void work();

  const Tamper tamper_;
  Jobs jobs_{Device{}, int64_t{1} << 30, {}};
  ServerSocket socket_{"tcp://127.0.0.1:*", std::nullopt, int64_t{1} << 28, {}};
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> jobs_done_{0};
  std::thread thread_;
};

}  // namespace ens::test
