// Frontend: the server socket, and the thread that reads it.
//
// Reads requests, checks everything a client claims before memory is taken for it, queues what is
// good and answers the rest at once. Whoever has an answer sends it: to wake this thread for that
// took some 30 us of a request's time. A client that does not read its answers loses them (ROUTER
// drops past its high-water mark); nobody else waits for it.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <zmq.hpp>

#include "cloud/batch_queue.h"
#include "cloud/metrics.h"
#include "cloud/reply.h"
#include "cloud/serving.h"
#include "cloud/zap.h"
#include "proto/keys.h"

namespace ens {

struct Security {
  KeyPair server;
  std::filesystem::path clients;  // public keys: a file or a folder
};

class Frontend {
 public:
  static constexpr uint32_t kVersion = 1;
  static constexpr size_t kMaxHeader = 16384;  // bytes; int8 has 10 for each channel

  // Binds; Error if it cannot. `security` empty: plain text.
  Frontend(zmq::context_t& context, const std::string& endpoint, std::shared_ptr<Serving> serving,
           const std::optional<Security>& security, BatchQueue& queue, Metrics& metrics);

  const std::string& endpoint() const { return endpoint_; }  // with the real port

  // From any thread: requests read from now on are for `serving`.
  void serve(std::shared_ptr<Serving> serving);
  std::shared_ptr<Serving> serving() const;
  // From any thread: the clients' keys are read again.
  void reread_keys();

  // Serves until `stop` is set (followed by wake()); then calls on_drain once, refuses new work,
  // and returns when every answer is sent; at the latest after drain_limit.
  void run(const std::atomic<bool>& stop, const std::function<void()>& on_drain,
           std::chrono::milliseconds drain_limit);
  void wake();  // run() looks at `stop` again; from any thread, async-signal-safe

  // For the closing log line: answers sent by status code name; handshakes and messages refused.
  std::map<std::string, int64_t> sent() const;
  int64_t refused() const { return (zap_ ? zap_->refused() : 0) + refused_messages_; }

 private:
  // Until there is something to read, wake(), or `patience` is over (negative: never).
  void wait(std::chrono::milliseconds patience);
  bool receive();  // one message; false if there was none
  void handle(zmq::message_t peer, zmq::message_t& header, zmq::message_t& tensor, int frames);
  void send(Outgoing& outgoing);  // from any thread

  void limit_messages(const Serving& serving);

  mutable std::mutex serving_mutex_;
  std::shared_ptr<Serving> serving_;
  std::atomic<bool> changed_{false};  // serving_, since the socket was last told
  std::atomic<bool> reread_keys_{false};
  std::optional<ZapHandler> zap_;
  mutable std::mutex socket_mutex_;  // of socket_ and sent_
  zmq::socket_t socket_;
  struct Event {  // a descriptor that is readable after wake()
    Event();
    ~Event();
    int fd;
  } wake_;
  BatchQueue& queue_;
  std::shared_ptr<Outbox> outbox_;
  Metrics& metrics_;
  std::string endpoint_;
  int64_t refused_messages_ = 0;
  std::map<std::string, int64_t> sent_;
};

}  // namespace ens
