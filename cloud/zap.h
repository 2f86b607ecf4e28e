// ZAP (rfc.zeromq.org/spec/27): decides which CURVE clients may connect, and whose messages count.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <zmq.hpp>

namespace ens {

// The public keys in a file or folder, followed as they change: a key that is taken away stops to
// count within kInterval, one that is added starts to. Used by one thread.
class AllowedKeys {
 public:
  static constexpr std::chrono::milliseconds kInterval{500};

  // Error if there is none to read.
  explicit AllowedKeys(std::filesystem::path file_or_folder);

  bool contains(const std::string& z85) const { return keys_.contains(z85); }
  // Looks for changes if the last look is long enough ago, or if `now`. An empty folder allows
  // nobody; what cannot be read leaves the keys as they were and is logged once.
  void refresh(bool now = false);

 private:
  std::filesystem::file_time_type changed() const;

  const std::filesystem::path path_;
  std::set<std::string> keys_;
  std::filesystem::file_time_type seen_;
  std::chrono::steady_clock::time_point looked_;
};

// libzmq asks this socket about every handshake in its context. Must exist before the server socket
// binds, and be polled by the thread that owns both.
class ZapHandler {
 public:
  ZapHandler(zmq::context_t& context, const std::filesystem::path& clients);

  zmq::socket_t& socket() { return socket_; }
  void answer();  // one waiting question, if there is any
  // Whether the client that sent `frame` is still allowed: a connection outlives its handshake.
  bool allows(zmq::message_t& frame) const;
  AllowedKeys& keys() { return keys_; }
  int64_t refused() const { return refused_; }

 private:
  zmq::socket_t socket_;
  AllowedKeys keys_;
  int64_t refused_ = 0;
};

}  // namespace ens
