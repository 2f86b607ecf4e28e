// ServerSocket: the socket that clients connect to.
//
// One thread waits and receives; any thread may send, which saves the 30 us or so that it takes to
// hand a reply to another thread. A client that does not read its replies loses them (a ROUTER
// drops what exceeds its high-water mark); nobody else waits for it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <string>

#include "net/keys.h"
#include "net/message.h"
#include "net/zap.h"

namespace ens {

struct ServerSecurity {
  KeyPair keys;                   // the server's own
  std::filesystem::path clients;  // public keys: a file or a folder
};

class ServerSocket {
 public:
  // Binds. Without `security` plain text. max_request: see set_max_request(). log_keys: what
  // becomes of the clients' keys, called by the thread that waits. Error if it cannot bind, or if
  // the keys cannot be read.
  ServerSocket(const std::string& endpoint, const std::optional<ServerSecurity>& security,
               int64_t max_request, AllowedKeys::Log log_keys);

  const std::string& endpoint() const { return endpoint_; }  // with the real port

  // Bytes of the largest frame to receive; a larger one ends the connection unread. Holds for
  // connections that are made from now on. From any thread.
  void set_max_request(int64_t bytes);
  void reread_keys();  // the clients' keys; from any thread
  void wake();         // ends wait(); from any thread, async-signal-safe

  // Until there may be a message, wake(), or the time is up (negative: never); may return early.
  // Answers handshakes.
  void wait(std::chrono::milliseconds limit);
  // False: there is no message. `message.frames` is 0 if there is nothing to reply to: the client's
  // key was taken away after the handshake.
  bool receive(Message& message);
  // Never waits. From any thread.
  void send(WireFrame peer, const google::protobuf::MessageLite& header, Tensor tensor);

  // Handshakes and messages refused for want of an allowed key. Of the thread that waits.
  int64_t refused() const { return refused_messages_ + (zap_ ? zap_->refused() : 0); }

 private:
  struct Event {  // a descriptor that is readable after wake()
    Event();
    ~Event();
    int fd;
  } wake_;
  zmq::context_t context_;
  std::optional<ZapHandler> zap_;
  std::mutex mutex_;  // of socket_
  zmq::socket_t socket_;
  std::string endpoint_;
  std::atomic<bool> reread_keys_{false};
  int64_t refused_messages_ = 0;
};

}  // namespace ens
