// SPDX-License-Identifier: Apache-2.0
// ClientSocket: a connection to one server, or to one of several replicas, which ZeroMQ makes and
// makes again in the background.
//
// Names are looked up in a thread of their own (net/address.h), and again when a connection fails;
// of the addresses of a name, of either family, the first that can be connected to is used.
// Knows nothing of requests: edge/link.h sends them again, counts deadlines and chooses the
// replica. One thread at a time.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "net/address.h"
#include "net/keys.h"
#include "net/message.h"
#include "net/wake_event.h"
#include "proto/status.h"

namespace ens {

struct ClientSecurity {
  KeyPair keys;                          // the client's own
  std::vector<std::string> server_keys;  // Z85; the server has one of these
};

// From a configuration: nothing, plain text, if there is no secret key. server_keys: files,
// separated by commas. Error for bad key files; usage Error for plain text to an address outside
// loopback unless `insecure`.
std::optional<ClientSecurity> read_client_security(const std::vector<std::string>& addresses,
                                                   const std::string& secret_key,
                                                   const std::string& server_keys, bool insecure);

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
  ClientSocket(std::vector<std::string> addresses, std::optional<ClientSecurity> security,
               int64_t max_reply);

  const std::string& address() const { return addresses_[at_].text; }  // the one in use
  size_t replicas() const { return addresses_.size(); }
  size_t server_keys() const { return security_ ? security_->server_keys.size() : 1; }
  // Why the address in use has no number yet; empty: it has.
  std::string name_problem() const;
  // Drops the connection, and starts connecting to the next address, or anew to the only one.
  void connect_to_next();
  // After a handshake that failed: tries the next of the server's keys.
  void use_next_server_key();
  // Asks the endpoint in use over a connection of its own whether a ZeroMQ peer listens there.
  // Waits a third of a second at most. For an address that is not TCP: true.
  bool greets() const;

  // The bytes sent; 0: there is no connection now. Never waits. A tensor is optional, see Message.
  int64_t send(const google::protobuf::MessageLite& header, const Tensor& tensor);
  bool receive(Message& message);     // false: there is none; never waits
  std::optional<Event> next_event();  // oldest first; never waits

  // Until there is a message or an event, a message can be sent (`for_sending`), or the time is up;
  // may return early. INTERNAL if libzmq cannot wait.
  Status wait(std::chrono::milliseconds limit, bool for_sending);

  void wake() { event_->wake(); }  // ends wait(), once; from any thread
  // From any thread, for good: wait() returns at once.
  void cancel();
  bool cancelled() const { return cancelled_.load(); }

 private:
  using Clock = std::chrono::steady_clock;
  struct Address {
    std::string text;
    std::vector<std::string> endpoints;  // numbers; as found last
    std::optional<Lookup> lookup;        // none: it is no name
    bool taken = false;                  // the lookup's result
    Clock::time_point looked_up;
  };
  struct Connection {
    explicit Connection(zmq::context_t& context)
        : monitor(context, zmq::socket_type::pair), socket(context, zmq::socket_type::dealer) {}
    ~Connection();
    zmq::socket_t monitor, socket;
  };

  void open(size_t endpoint);
  void start();                    // connects to addresses_[at_] as far as its numbers are known
  void look_up(Address& address);  // unless it is under way, or was done just now
  void take_lookup();
  void attempt_failed();
  bool attempt_is_late() const;

  std::vector<Address> addresses_;
  size_t at_ = 0, endpoint_ = 0, server_key_ = 0;
  const std::optional<ClientSecurity> security_;
  const int64_t max_reply_;
  bool connected_ = false;      // TCP stands
  bool failed_before_ = false;  // the endpoint in use
  Clock::time_point attempt_since_;
  std::atomic<bool> cancelled_{false};
  std::shared_ptr<WakeEvent> event_ = std::make_shared<WakeEvent>();
  zmq::context_t context_;
  int monitors_ = 0;  // made so far: each has a name of its own
  std::optional<Connection> connection_;
};

}  // namespace ens
