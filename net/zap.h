// ZAP (rfc.zeromq.org/spec/27): decides which CURVE clients may connect, and whose messages are
// read.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <zmq.hpp>

namespace ens {

// The public keys in a file or folder, followed as they change: a key that is added or taken away
// takes effect within kInterval. One thread at a time.
class AllowedKeys {
 public:
  static constexpr std::chrono::milliseconds kInterval{500};

  struct Change {
    size_t before = 0, now = 0;  // how many keys are allowed
    std::string error;           // why the keys could not be read and stay; empty: they were read
  };
  using Log = std::function<void(const Change&)>;

  // Error if there is no key to read.
  AllowedKeys(std::filesystem::path file_or_folder, Log log);

  bool contains(const std::string& z85) const { return keys_.contains(z85); }
  // Looks for changes if the last look was kInterval ago, or if `now`. An empty folder allows
  // nobody; a file that cannot be read leaves the keys as they were.
  void refresh(bool now = false);

 private:
  std::filesystem::file_time_type changed() const;

  const std::filesystem::path path_;
  const Log log_;
  std::set<std::string> keys_;
  std::filesystem::file_time_type seen_;
  std::chrono::steady_clock::time_point looked_;
};

// libzmq asks this socket about every CURVE handshake in its context. Must exist before the server
// socket binds. One thread at a time, which also polls the socket.
class ZapHandler {
 public:
  ZapHandler(zmq::context_t& context, const std::filesystem::path& clients, AllowedKeys::Log log);

  zmq::socket_t& socket() { return socket_; }
  void reply();  // to one request of libzmq, if one waits
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
