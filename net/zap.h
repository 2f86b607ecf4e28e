// SPDX-License-Identifier: Apache-2.0
// ZAP (rfc.zeromq.org/spec/27): decides which CURVE clients may connect, and whose messages are
// read.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
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

  // The key's name; nullptr: it is not allowed.
  const std::string* find(const std::string& z85) const;
  // Looks for changes if the last look was kInterval ago, or if `now`. An empty folder allows
  // nobody; a file that cannot be read leaves the keys as they were.
  void refresh(bool now = false);

 private:
  std::filesystem::file_time_type changed() const;

  const std::filesystem::path path_;
  const Log log_;
  std::map<std::string, std::string> keys_;  // to names
  std::filesystem::file_time_type seen_;
  std::chrono::steady_clock::time_point looked_;
};

// libzmq asks this socket about every CURVE handshake in its context. Must exist before the server
// socket binds. One thread at a time, which also polls the socket.
class ZapHandler {
 public:
  ZapHandler(zmq::context_t& context, const std::filesystem::path& clients, AllowedKeys::Log log);

  zmq::socket_t& socket() { return socket_; }
  // Replies to one request of libzmq, if one waits: then true. client: the key's name; empty: it
  // was refused.
  bool reply(std::string& client);
  // The name of the client that sent `frame`; nullptr: it is no longer allowed, since a connection
  // outlives its handshake.
  const std::string* client_of(zmq::message_t& frame) const;
  AllowedKeys& keys() { return keys_; }

 private:
  zmq::socket_t socket_;
  AllowedKeys keys_;
};

}  // namespace ens
