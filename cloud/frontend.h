// SPDX-License-Identifier: Apache-2.0
// Frontend: the thread that reads requests, and what it makes of them.
//
// Checks everything that a client claims before memory is taken for it, queues what is good and
// replies at once to the rest. Replies are sent by the thread that has them (net/server_socket.h).
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "cloud/batch_queue.h"
#include "cloud/metrics.h"
#include "cloud/reply.h"
#include "cloud/served_bundle.h"
#include "net/server_socket.h"

namespace ens {

class Frontend {
 public:
  // Binds; Error if it cannot. `security` empty: plain text.
  Frontend(const std::string& endpoint, std::shared_ptr<const ServedBundles> served,
           const std::optional<ServerSecurity>& security, BatchQueue& queue, Metrics& metrics);

  const std::string& endpoint() const { return socket_.endpoint(); }  // with the real port

  // From any thread: requests that are read from now on are for `served`.
  void publish(std::shared_ptr<const ServedBundles> served);
  std::shared_ptr<const ServedBundles> served() const;
  void set_keys(KeyPair keys) { socket_.set_keys(std::move(keys)); }  // from any thread
  void reread_keys() { socket_.reread_keys(); }  // the clients'; from any thread

  // Reads requests until `stop` is set (followed by wake()); then calls on_drain once, refuses new
  // work, and returns when every reply is sent, at the latest after drain_limit.
  void run(const std::atomic<bool>& stop, const std::function<void()>& on_drain,
           std::chrono::milliseconds drain_limit);
  void wake() { socket_.wake(); }  // run() looks at `stop` again; from any thread, signal-safe

  // For the closing log lines: replies sent, by status code name.
  std::map<std::string, int64_t> sent() const;

 private:
  struct RefusalLog {
    int64_t count = 0;  // since the last line
    Clock::time_point next;
  };

  ServerEvents events();
  void handle(Message& message);
  void send(Outgoing& outgoing);  // from any thread

  mutable std::mutex mutex_;  // of served_ and sent_
  std::shared_ptr<const ServedBundles> served_;
  std::map<std::string, int64_t> sent_;
  std::map<Refusal, RefusalLog> refusal_logs_;
  int64_t open_ = 0;  // connections
  Metrics& metrics_;
  ServerSocket socket_;
  BatchQueue& queue_;
  std::shared_ptr<Outbox> outbox_;
};

}  // namespace ens
