// ZAP (rfc.zeromq.org/spec/27): decides which CURVE clients may connect.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <zmq.hpp>

namespace ens {

// libzmq asks this socket about every handshake in its context. Must exist before the server socket
// binds, and be polled by the thread that owns both.
class ZapHandler {
 public:
  // `allowed`: public keys, Z85.
  ZapHandler(zmq::context_t& context, std::set<std::string> allowed);

  zmq::socket_t& socket() { return socket_; }
  void answer();  // one waiting question, if there is any
  int64_t refused() const { return refused_; }

 private:
  zmq::socket_t socket_;
  std::set<std::string> allowed_;
  int64_t refused_ = 0;
};

}  // namespace ens
