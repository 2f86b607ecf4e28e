// SPDX-License-Identifier: Apache-2.0
// ServerSocket: the socket that clients connect to.
//
// One thread waits and receives; any thread may send, which saves the 30 us or so that it takes to
// hand a reply to another thread. A client that does not read its replies loses them (a ROUTER
// drops what exceeds its high-water mark); nobody else waits for it.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "net/keys.h"
#include "net/message.h"
#include "net/shedder.h"
#include "net/wake_event.h"
#include "net/zap.h"

namespace ens {

struct ServerSecurity {
  KeyPair keys;                   // the server's own
  std::filesystem::path clients;  // public keys: a file or a folder
};

// From a configuration: nothing, plain text, if there is no secret key. Error for bad key files;
// usage Error for plain text outside loopback unless `insecure`.
std::optional<ServerSecurity> read_server_security(const std::string& endpoint,
                                                   const std::string& secret_key,
                                                   const std::string& clients, bool insecure);

// Why a connection, or a message, was refused.
enum class Refusal {
  kKey,          // the client's key is not allowed, or no longer
  kServerKey,    // the client expects another key of the server
  kPlainText,    // encryption on one side only
  kHandshake,    // broken off, too slow, or nothing of ZeroMQ's
  kDescriptors,  // the process has none left
};
const char* name(Refusal refusal);  // "key", "server_key", ...
inline constexpr std::array kRefusals = {Refusal::kKey, Refusal::kServerKey, Refusal::kPlainText,
                                         Refusal::kHandshake, Refusal::kDescriptors};

// What a server tells of its connections. Called by the thread that waits.
struct ServerEvents {
  // Which clients are allowed.
  AllowedKeys::Log keys_changed = [](const AllowedKeys::Change&) {};
  // A handshake with keys was done; the name of the client's.
  std::function<void(const std::string& client)> accepted = [](const std::string&) {};
  std::function<void(Refusal)> refused = [](Refusal) {};
  // How many connections there are now.
  std::function<void(int64_t)> connections = [](int64_t) {};
  // set_keys() took effect.
  std::function<void()> rebound = [] {};
};

class ServerSocket {
 public:
  // Binds; a name, to all its addresses; `*`, to those of both families. Without `security` plain
  // text. max_request: see set_max_request(). Error if it cannot bind, or if the keys cannot be
  // read.
  ServerSocket(const std::string& endpoint, const std::optional<ServerSecurity>& security,
               int64_t max_request, ServerEvents events);

  ~ServerSocket();

  const std::string& endpoint() const { return endpoint_; }  // with the real port

  // Bytes of the largest frame to receive; a larger one ends the connection unread. Holds for
  // connections that are made from now on. From any thread.
  void set_max_request(int64_t bytes);
  void reread_keys();  // the clients' keys; from any thread
  // The server's own, from now on: connections end, and are made anew. From any thread.
  void set_keys(KeyPair keys);
  void wake();  // ends wait(); from any thread, async-signal-safe

  // Until there may be a message, wake(), or the time is up (negative: never); may return early.
  // Answers handshakes.
  void wait(std::chrono::milliseconds limit);
  // False: there is no message. `message.frames` is 0 if there is nothing to reply to: the client's
  // key was taken away after the handshake.
  bool receive(Message& message);
  // Never waits. From any thread.
  void send(WireFrame peer, const google::protobuf::MessageLite& header, Tensor tensor);

 private:
  void bind(const std::string& endpoint);
  void bind_all(const std::string& endpoint);
  void rebind(const KeyPair& keys);
  void read_monitor();

  const ServerEvents events_;
  WakeEvent wake_;
  zmq::context_t context_;
  std::optional<ZapHandler> zap_;
  std::mutex mutex_;  // of socket_ and new_keys_
  zmq::socket_t socket_, monitor_;
  std::optional<KeyPair> new_keys_;
  std::string endpoint_;
  std::vector<std::string> bound_;
  std::vector<std::unique_ptr<Shedder>> shedders_;  // one for each bound address
  int64_t open_ = 0;                                // connections
  std::atomic<bool> reread_keys_{false};
};

}  // namespace ens
