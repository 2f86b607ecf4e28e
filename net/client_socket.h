// ClientSocket: a connection to one server, or to one of several replicas, which ZeroMQ makes and
// makes again in the background.
//
// Knows nothing of requests: edge/link.h sends them again, counts deadlines and chooses the
// replica. One thread at a time.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "net/keys.h"
#include "net/message.h"
#include "proto/status.h"

namespace ens {

struct ClientSecurity {
  KeyPair keys;            // the client's own
  std::string server_key;  // the server's public key, Z85
};

class ClientSocket {
 public:
  // What happens to the connection. A refused key, and an endpoint that is no such server, cannot
  // be told from a server that goes away unless the server says so.
  enum class Event {
    kConnected,            // TCP stands; the handshake begins
    kReady,                // the handshake is done
    kKeyRefused,           // the server does not allow this client's key
    kHandshakeImpossible,  // such as keys on one side only; libzmq does not try again
    kHandshakeFailed,      // a wrong key, or a server that goes away
    kDisconnected,
  };

  // Starts connecting to the first of `addresses` (at least one). Without `security` plain text.
  // max_reply: bytes of the largest frame to receive; a larger one ends the connection. Usage Error
  // if one of the addresses is malformed.
  ClientSocket(std::vector<std::string> addresses, const std::optional<ClientSecurity>& security,
               int64_t max_reply);

  const std::string& address() const { return addresses_[at_]; }  // the one in use
  bool has_replicas() const { return addresses_.size() > 1; }
  // Drops the connection, and starts connecting to the next address, or anew to the only one.
  void connect_to_next();

  // The bytes sent; 0: there is no connection now. Never waits. A tensor is optional, see Message.
  int64_t send(const google::protobuf::MessageLite& header, const Tensor& tensor);
  bool receive(Message& message);     // false: there is none; never waits
  std::optional<Event> next_event();  // oldest first; never waits

  // Until there is a message or an event, a message can be sent (`for_sending`), or the time is up.
  // INTERNAL if libzmq cannot wait.
  Status wait(std::chrono::milliseconds limit, bool for_sending);

 private:
  const std::vector<std::string> addresses_;
  size_t at_ = 0;
  zmq::context_t context_;
  zmq::socket_t socket_, monitor_;
};

}  // namespace ens
