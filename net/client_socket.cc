// SPDX-License-Identifier: Apache-2.0
#include "net/client_socket.h"

#include <google/protobuf/message_lite.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/error.h"
#include "base/fd.h"
#include "base/strings.h"
#include "net/limits.h"

namespace ens {
namespace {

constexpr int kMonitored = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_CLOSED | ZMQ_EVENT_DISCONNECTED |
                           ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                           ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                           ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL;
constexpr std::chrono::milliseconds kLookupInterval{1000};

}  // namespace

std::optional<ClientSecurity> read_client_security(const std::vector<std::string>& addresses,
                                                   const std::string& secret_key,
                                                   const std::string& server_keys, bool insecure) {
  if (!secret_key.empty()) {
    ClientSecurity security{read_secret_key(secret_key), {}};
    const bool one = std::filesystem::exists(server_keys);  // also one with a comma
    for (const std::string& file :
         one ? std::vector<std::string>{server_keys} : split_text(server_keys, ',')) {
      security.server_keys.push_back(read_public_key(file));
    }
    if (security.server_keys.empty()) usage_fail("no file", "server_key", "name a .pub file");
    return security;
  }
  for (const std::string& address : addresses) {
    if (!is_loopback(address) && !insecure) {
      usage_fail("refusing to send plain text outside loopback", address,
                 "set --server-key and --secret-key (ensembler keys), or --insecure");
    }
  }
  return std::nullopt;
}

ClientSocket::ClientSocket(std::vector<std::string> addresses,
                           std::optional<ClientSecurity> security, int64_t max_reply)
    : security_(std::move(security)), max_reply_(max_reply) {
  for (std::string& text : addresses) {
    Address address;
    if (!has_host_name(text)) address.endpoints = {text};
    address.text = std::move(text);
    addresses_.push_back(std::move(address));
  }
  for (at_ = addresses_.size(); at_-- > 0;) {  // a malformed one shows at once
    try {
      start();
    } catch (const zmq::error_t& error) {
      usage_fail(std::string("bad address: ") + error.what(), address(), "write tcp://HOST:PORT");
    }
    if (at_ == 0) break;
  }
}

// libzmq's thread would wait for ever for a monitor that is gone.
ClientSocket::Connection::~Connection() { zmq_socket_monitor(socket.handle(), nullptr, 0); }

void ClientSocket::start() {
  connection_.reset();
  connected_ = false;
  Address& address = addresses_[at_];
  if (has_host_name(address.text)) look_up(address);
  if (!address.endpoints.empty()) open(0);
}

void ClientSocket::open(size_t endpoint) {
  endpoint_ = endpoint;
  failed_before_ = connected_ = false;
  attempt_since_ = Clock::now();
  const std::string& number = addresses_[at_].endpoints[endpoint];
  connection_.reset();
  connection_.emplace(context_);
  auto& [monitor, socket] = *connection_;
  socket.set(zmq::sockopt::linger, 0);
  socket.set(zmq::sockopt::immediate, 1);  // nothing waits in a socket without a connection
  socket.set(zmq::sockopt::maxmsgsize, max_reply_ + limits::kCurveOverhead);
  socket.set(zmq::sockopt::sndhwm, limits::kHighWater);
  socket.set(zmq::sockopt::rcvhwm, limits::kHighWater);
  socket.set(zmq::sockopt::reconnect_ivl, limits::kReconnect);
  socket.set(zmq::sockopt::reconnect_ivl_max, limits::kLongestReconnect);
  socket.set(zmq::sockopt::handshake_ivl, limits::kClientHandshake);
  socket.set(zmq::sockopt::heartbeat_ivl, limits::kClientHeartbeat);
  socket.set(zmq::sockopt::heartbeat_timeout, limits::kClientHeartbeatTimeout);
  socket.set(zmq::sockopt::ipv6, number.find('[') != number.npos);
  if (security_) {
    socket.set(zmq::sockopt::curve_serverkey, security_->server_keys[server_key_]);
    socket.set(zmq::sockopt::curve_publickey, security_->keys.public_key);
    socket.set(zmq::sockopt::curve_secretkey, security_->keys.secret_key.z85());
  }
  const std::string events = "inproc://monitor" + std::to_string(++monitors_);
  if (zmq_socket_monitor(socket.handle(), events.c_str(), kMonitored) != 0) {
    fail(std::string("cannot watch the connection: ") + zmq_strerror(zmq_errno()));
  }
  monitor.set(zmq::sockopt::linger, 0);
  monitor.set(zmq::sockopt::rcvhwm, 0);  // libzmq's own thread would wait for us
  monitor.connect(events);
  socket.connect(number);
}

void ClientSocket::connect_to_next() {
  at_ = (at_ + 1) % addresses_.size();
  start();
}

void ClientSocket::use_next_server_key() {
  if (server_keys() == 1 || !connection_) return;
  // After the last of them libzmq pauses before it tries again: only then the first has its turn.
  if (server_key_ + 1 == server_keys() && !std::exchange(failed_before_, true)) return;
  server_key_ = (server_key_ + 1) % server_keys();
  open(endpoint_);
}

// ---- names, and the several addresses of one

void ClientSocket::look_up(Address& address) {
  const auto now = Clock::now();
  if (address.lookup && (!address.taken || now < address.looked_up + kLookupInterval)) return;
  address.lookup.emplace(address.text, event_);
  address.taken = false;
  address.looked_up = now;
}

void ClientSocket::take_lookup() {
  for (size_t i = 0; i < addresses_.size(); ++i) {
    Address& address = addresses_[i];
    if (!address.lookup || address.taken || !address.lookup->done()) continue;
    address.taken = true;
    const std::vector<std::string>& found = address.lookup->result().endpoints;
    if (found.empty() || found == address.endpoints) continue;  // what was known may still hold
    const bool in_use = i == at_ && connection_ &&
                        std::ranges::find(found, address.endpoints[endpoint_]) != found.end();
    const std::string used = in_use ? address.endpoints[endpoint_] : "";
    address.endpoints = found;
    if (in_use) {
      endpoint_ = static_cast<size_t>(std::ranges::find(found, used) - found.begin());
    } else if (i == at_ && !connected_) {
      open(0);
    } else if (i == at_) {
      endpoint_ = 0;  // goes on over a connection to an address that the name had before
    }
  }
}

// libzmq tries the same endpoint again after a pause. Before that others have their turn.
void ClientSocket::attempt_failed() {
  Address& address = addresses_[at_];
  if (has_host_name(address.text)) look_up(address);
  if (endpoint_ + 1 < address.endpoints.size()) return open(endpoint_ + 1);
  attempt_since_ = Clock::now();
  if (address.endpoints.size() > 1 && std::exchange(failed_before_, true)) open(0);
}

bool ClientSocket::attempt_is_late() const {
  return connection_ && !connected_ && addresses_[at_].endpoints.size() > 1 &&
         Clock::now() - attempt_since_ >= limits::kOtherFamily;
}

std::string ClientSocket::name_problem() const {
  const Address& address = addresses_[at_];
  if (!address.endpoints.empty()) return "";
  return address.taken ? address.lookup->result().error : "the name server does not answer";
}

bool ClientSocket::greets() const {
  const std::string& number = addresses_[at_].endpoints.at(endpoint_);
  const std::optional<sockaddr_storage> to = socket_address(number);
  if (!to) return true;
  const Fd socket(::socket(to->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return false;
  const timeval patience{0, limits::kGreetingMicroseconds};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  // Holds for connect() too.
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  unsigned char first = 0;  // of the greeting that libzmq sends at once
  return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&*to), sizeof *to) == 0 &&
         ::recv(socket.get(), &first, 1, 0) == 1 && first == 0xff;
}

// ---- messages

int64_t ClientSocket::send(const google::protobuf::MessageLite& header, const Tensor& tensor) {
  if (!connection_) return 0;
  std::vector<WireFrame> frames = to_frames(header, tensor);
  size_t bytes = 0;
  for (const WireFrame& frame : frames) bytes += frame.size();
  return ens::send(connection_->socket, frames) ? static_cast<int64_t>(bytes) : 0;
}

bool ClientSocket::receive(Message& message) {
  return connection_ && ens::receive(connection_->socket, message);
}

std::optional<ClientSocket::Event> ClientSocket::next_event() {
  take_lookup();
  if (attempt_is_late()) attempt_failed();
  if (!connection_) look_up(addresses_[at_]);  // once more, after a while
  WireFrame event, endpoint;
  while (connection_ && connection_->monitor.recv(event, zmq::recv_flags::dontwait)) {
    if (event.more()) (void)connection_->monitor.recv(endpoint, zmq::recv_flags::dontwait);
    uint16_t number = 0;
    if (event.size() < sizeof number) continue;
    std::memcpy(&number, event.data(), sizeof number);
    switch (number) {
      case ZMQ_EVENT_CONNECTED:
        connected_ = true;
        return Event::kConnected;
      case ZMQ_EVENT_CLOSED:
        attempt_failed();
        break;
      case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        return Event::kReady;
      case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        return Event::kKeyRefused;
      case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return Event::kHandshakeImpossible;
      case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return Event::kHandshakeFailed;
      case ZMQ_EVENT_DISCONNECTED:
        connected_ = false;
        attempt_since_ = Clock::now();
        return Event::kDisconnected;
      default:
        break;
    }
  }
  return std::nullopt;
}

Status ClientSocket::wait(std::chrono::milliseconds limit, bool for_sending) {
  const auto events = static_cast<short>(ZMQ_POLLIN | (for_sending ? ZMQ_POLLOUT : 0));
  std::vector<zmq::pollitem_t> items = {{nullptr, event_->fd(), ZMQ_POLLIN, 0}};
  if (connection_) {
    items.push_back({connection_->socket.handle(), 0, events, 0});
    items.push_back({connection_->monitor.handle(), 0, ZMQ_POLLIN, 0});
    if (!connected_ && addresses_[at_].endpoints.size() > 1) {
      limit = std::min(limit, limits::kOtherFamily);
    }
  }
  if (!connection_) limit = std::min(limit, kLookupInterval);
  try {
    zmq::poll(items, limit);
  } catch (const zmq::error_t& error) {
    if (error.num() != EINTR) return {StatusCode::kInternal, error.what()};
  }
  if (!cancelled()) event_->clear();
  return {};
}

void ClientSocket::cancel() {
  cancelled_.store(true);
  event_->wake();
}

}  // namespace ens
