// SPDX-License-Identifier: Apache-2.0
#include "net/server_socket.h"

#include <google/protobuf/message_lite.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "base/error.h"
#include "net/address.h"
#include "net/limits.h"

namespace ens {
namespace {

bool readable(const zmq::socket_t& socket) {
  return (socket.get(zmq::sockopt::events) & ZMQ_POLLIN) != 0;
}

constexpr const char* kMonitor = "inproc://monitor";
constexpr int kMonitored = ZMQ_EVENT_LISTENING | ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_ACCEPT_FAILED |
                           ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                           ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL;

Refusal refusal_of(uint32_t protocol_error) {
  if (protocol_error == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH) return Refusal::kPlainText;
  if (protocol_error == ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC) return Refusal::kServerKey;
  return Refusal::kHandshake;
}

bool no_descriptors(uint32_t error) {
  return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

}  // namespace

std::optional<ServerSecurity> read_server_security(const std::string& endpoint,
                                                   const std::string& secret_key,
                                                   const std::string& clients, bool insecure) {
  const bool local = is_loopback(endpoint);
  if (!secret_key.empty()) return ServerSecurity{read_secret_key(secret_key), clients};
  if (!local && !insecure) {
    usage_fail("refusing to serve plain text outside loopback", endpoint,
               "set --secret-key and --clients (ensembler keys), or --insecure");
  }
  return std::nullopt;
}

const char* name(Refusal refusal) {
  switch (refusal) {
    case Refusal::kKey:
      return "key";
    case Refusal::kServerKey:
      return "server_key";
    case Refusal::kPlainText:
      return "plain_text";
    case Refusal::kHandshake:
      return "handshake";
    case Refusal::kDescriptors:
      return "descriptors";
  }
  return "?";
}

ServerSocket::ServerSocket(const std::string& endpoint,
                           const std::optional<ServerSecurity>& security, int64_t max_request,
                           ServerEvents events)
    : events_(std::move(events)),
      socket_(context_, zmq::socket_type::router),
      monitor_(context_, zmq::socket_type::pair) {
  set_max_request(max_request);
  socket_.set(zmq::sockopt::rcvhwm, limits::kHighWater);
  socket_.set(zmq::sockopt::sndhwm, limits::kHighWater);
  socket_.set(zmq::sockopt::linger, limits::kServerLinger);
  socket_.set(zmq::sockopt::handshake_ivl, limits::kServerHandshake);
  socket_.set(zmq::sockopt::heartbeat_ivl, limits::kServerHeartbeat);
  socket_.set(zmq::sockopt::heartbeat_timeout, limits::kServerHeartbeatTimeout);
  socket_.set(zmq::sockopt::backlog, limits::kBacklog);
  if (security) {
    zap_.emplace(context_, security->clients, events_.keys_changed);
    socket_.set(zmq::sockopt::curve_server, 1);
    socket_.set(zmq::sockopt::curve_secretkey, security->keys.secret_key.z85());
    socket_.set(zmq::sockopt::zap_domain, "ensembler");
  }
  if (zmq_socket_monitor(socket_.handle(), kMonitor, kMonitored) != 0) {
    fail(std::string("cannot watch the connections: ") + zmq_strerror(zmq_errno()));
  }
  monitor_.set(zmq::sockopt::linger, 0);
  monitor_.set(zmq::sockopt::rcvhwm, 0);  // libzmq's own thread would wait for us
  monitor_.connect(kMonitor);
  bind_all(endpoint);
}

// libzmq's thread would wait for ever for a monitor that is gone.
ServerSocket::~ServerSocket() { zmq_socket_monitor(socket_.handle(), nullptr, 0); }

void ServerSocket::bind(const std::string& endpoint) {
  // Both families where the system has them.
  const bool six = endpoint.find('[') != endpoint.npos || endpoint.starts_with("tcp://*");
  socket_.set(zmq::sockopt::ipv6, six);
  socket_.bind(endpoint);
  bound_.push_back(socket_.get(zmq::sockopt::last_endpoint));
}

void ServerSocket::bind_all(const std::string& endpoint) {
  std::string why;
  int error = 0;
  const auto try_bind = [&](const std::string& one) {
    try {
      bind(one);
    } catch (const zmq::error_t& failure) {
      if (why.empty()) why = failure.what();
      error = failure.num();
    }
  };
  const bool is_name = has_host_name(endpoint);
  // A network interface is a name, too, which libzmq knows.
  try_bind(endpoint);
  if (bound_.empty() && is_name && error != EADDRINUSE) {
    const ResolvedAddress found = resolve(endpoint);
    why = found.error;
    for (std::string one : found.endpoints) {
      if (one.ends_with(":*") && !bound_.empty()) {  // the port that the first one got
        one.replace(one.size() - 1, 1, bound_[0].substr(bound_[0].rfind(':') + 1));
      }
      try_bind(one);
    }
  }
  if (bound_.empty()) {
    fail("cannot listen: " + why, endpoint,
         error == EADDRINUSE ? "another process has this address; choose another port with --bind"
                             : "check --bind: tcp://HOST:PORT of this machine");
  }
  endpoint_ = bound_[0];
  read_monitor();  // which sockets listen
}

// Connections belong to the listener that accepted them, and end with it. Those who had a request
// under way send it again.
void ServerSocket::rebind(const KeyPair& keys) {
  const std::vector<std::string> endpoints = std::exchange(bound_, {});
  shedders_.clear();  // which hold the sockets open
  for (const std::string& endpoint : endpoints) socket_.unbind(endpoint);
  socket_.set(zmq::sockopt::curve_secretkey, keys.secret_key.z85());
  for (const std::string& endpoint : endpoints) {
    for (int patience = 200;; --patience) {  // libzmq closes the old socket in its own time
      try {
        bind(endpoint);
        break;
      } catch (const zmq::error_t& error) {
        if (patience == 0 || error.num() != EADDRINUSE) throw;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
}

void ServerSocket::set_max_request(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  socket_.set(zmq::sockopt::maxmsgsize, bytes + limits::kCurveOverhead);
}

void ServerSocket::reread_keys() {
  reread_keys_.store(true);
  wake();
}

void ServerSocket::set_keys(KeyPair keys) {
  {
    const std::lock_guard lock(mutex_);
    new_keys_.emplace(std::move(keys));
  }
  wake();
}

void ServerSocket::wake() { wake_.wake(); }

// zmq::poll() would touch the socket while another thread sends on it: this waits for the sockets'
// descriptors. They tell only once that something happened, so the sockets are asked first.
void ServerSocket::wait(std::chrono::milliseconds limit) {
  if (zap_)
    limit = limit.count() < 0 ? AllowedKeys::kInterval : std::min(limit, AllowedKeys::kInterval);
  std::array<pollfd, 4> fds = {pollfd{wake_.fd(), POLLIN, 0},
                               {-1, POLLIN, 0},
                               {-1, POLLIN, 0},
                               pollfd{monitor_.get(zmq::sockopt::fd), POLLIN, 0}};
  bool ready = readable(monitor_) || (zap_ && readable(zap_->socket()));
  {
    const std::lock_guard lock(mutex_);
    ready = readable(socket_) || ready;
    fds[1].fd = socket_.get(zmq::sockopt::fd);
  }
  if (zap_) fds[2].fd = zap_->socket().get(zmq::sockopt::fd);
  ::poll(fds.data(), fds.size(), ready ? 0 : static_cast<int>(limit.count()));
  wake_.clear();
  if (zap_) {
    zap_->keys().refresh(reread_keys_.exchange(false));
    std::string client;
    if (zap_->reply(client)) {
      client.empty() ? events_.refused(Refusal::kKey) : events_.accepted(client);
    }
    const std::unique_lock lock(mutex_);
    if (new_keys_) {
      const KeyPair keys = std::move(*new_keys_);
      new_keys_.reset();
      rebind(keys);
      events_.rebound();
    }
  }
  read_monitor();
}

void ServerSocket::read_monitor() {
  WireFrame event, rest;
  bool out_of_descriptors = false;
  const int64_t before = open_;
  while (monitor_.recv(event, zmq::recv_flags::dontwait)) {
    for (bool more = event.more(); more; more = rest.more()) {
      if (!monitor_.recv(rest, zmq::recv_flags::dontwait)) break;
    }
    uint16_t number = 0;
    uint32_t value = 0;
    if (event.size() < sizeof number + sizeof value) continue;
    std::memcpy(&number, event.data(), sizeof number);
    std::memcpy(&value, event.data<std::byte>() + sizeof number, sizeof value);
    switch (number) {
      case ZMQ_EVENT_LISTENING:
        if (!bound_.empty() && bound_[0].starts_with("tcp://")) {
          shedders_.push_back(std::make_unique<Shedder>(static_cast<int>(value)));
        }
        break;
      case ZMQ_EVENT_ACCEPTED:
        ++open_;
        break;
      case ZMQ_EVENT_DISCONNECTED:
        --open_;
        break;
      case ZMQ_EVENT_ACCEPT_FAILED:
        out_of_descriptors = out_of_descriptors || no_descriptors(value);
        break;
      case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        events_.refused(refusal_of(value));
        break;
      case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        events_.refused(Refusal::kHandshake);
        break;
      default:
        break;
    }
  }
  if (open_ != before) events_.connections(open_);
  if (out_of_descriptors) {
    for (const auto& shedder : shedders_) shedder->shed();
    events_.refused(Refusal::kDescriptors);
  }
}

bool ServerSocket::receive(Message& message) {
  message.frames = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!socket_.recv(message.peer, zmq::recv_flags::dontwait)) return false;
    if (message.peer.more()) ens::receive(socket_, message);
  }
  message.client.clear();
  if (zap_ && message.frames > 0) {
    if (const std::string* client = zap_->client_of(message.header)) {
      message.client = *client;
    } else {
      events_.refused(Refusal::kKey);
      message.frames = 0;
    }
  }
  return true;
}

void ServerSocket::send(WireFrame peer, const google::protobuf::MessageLite& header,
                        Tensor tensor) {
  std::vector<WireFrame> frames = to_frames(header, std::move(tensor));
  frames.insert(frames.begin(), std::move(peer));
  const std::lock_guard lock(mutex_);
  ens::send(socket_, frames);
  // Sending may have taken the descriptor's notice of a request.
  if (readable(socket_)) wake();
}

}  // namespace ens
