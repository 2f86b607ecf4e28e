#include "net/client_socket.h"

#include <google/protobuf/message_lite.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "net/limits.h"

namespace ens {
namespace {

constexpr const char* kMonitor = "inproc://monitor";
constexpr int kMonitored = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_DISCONNECTED |
                           ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                           ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                           ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL;

}  // namespace

ClientSocket::ClientSocket(std::vector<std::string> addresses,
                           const std::optional<ClientSecurity>& security, int64_t max_reply)
    : addresses_(std::move(addresses)),
      socket_(context_, zmq::socket_type::dealer),
      monitor_(context_, zmq::socket_type::pair) {
  socket_.set(zmq::sockopt::linger, 0);
  socket_.set(zmq::sockopt::immediate, 1);  // nothing waits in a socket without a connection
  socket_.set(zmq::sockopt::maxmsgsize, max_reply + limits::kCurveOverhead);
  socket_.set(zmq::sockopt::sndhwm, limits::kHighWater);
  socket_.set(zmq::sockopt::rcvhwm, limits::kHighWater);
  socket_.set(zmq::sockopt::reconnect_ivl, limits::kReconnect);
  socket_.set(zmq::sockopt::reconnect_ivl_max, limits::kLongestReconnect);
  socket_.set(zmq::sockopt::handshake_ivl, limits::kClientHandshake);
  socket_.set(zmq::sockopt::heartbeat_ivl, limits::kClientHeartbeat);
  socket_.set(zmq::sockopt::heartbeat_timeout, limits::kClientHeartbeatTimeout);
  if (std::ranges::any_of(addresses_, [](const auto& a) { return a.find('[') != a.npos; })) {
    socket_.set(zmq::sockopt::ipv6, 1);
  }
  if (security) {
    socket_.set(zmq::sockopt::curve_serverkey, security->server_key);
    socket_.set(zmq::sockopt::curve_publickey, security->keys.public_key);
    socket_.set(zmq::sockopt::curve_secretkey, security->keys.secret_key.z85());
  }
  if (zmq_socket_monitor(socket_.handle(), kMonitor, kMonitored) != 0) {
    fail(std::string("cannot watch the connection: ") + zmq_strerror(zmq_errno()));
  }
  monitor_.set(zmq::sockopt::linger, 0);
  monitor_.connect(kMonitor);
  for (const std::string& address : addresses_) {  // a malformed one shows at once
    try {
      socket_.connect(address);
      if (address != addresses_[0]) socket_.disconnect(address);
    } catch (const zmq::error_t& error) {
      usage_fail(std::string("bad address: ") + error.what(), address, "write tcp://HOST:PORT");
    }
  }
}

void ClientSocket::connect_to_next() {
  try {
    socket_.disconnect(address());
  } catch (const zmq::error_t&) {  // libzmq had given up itself
  }
  at_ = (at_ + 1) % addresses_.size();
  socket_.connect(address());
}

int64_t ClientSocket::send(const google::protobuf::MessageLite& header, const Tensor& tensor) {
  std::vector<WireFrame> frames = to_frames(header, tensor);
  size_t bytes = 0;
  for (const WireFrame& frame : frames) bytes += frame.size();
  return ens::send(socket_, frames) ? static_cast<int64_t>(bytes) : 0;
}

bool ClientSocket::receive(Message& message) { return ens::receive(socket_, message); }

std::optional<ClientSocket::Event> ClientSocket::next_event() {
  WireFrame event, endpoint;
  while (monitor_.recv(event, zmq::recv_flags::dontwait)) {
    if (event.more()) (void)monitor_.recv(endpoint, zmq::recv_flags::dontwait);
    uint16_t number = 0;
    if (event.size() < sizeof number) continue;
    std::memcpy(&number, event.data(), sizeof number);
    switch (number) {
      case ZMQ_EVENT_CONNECTED:
        return Event::kConnected;
      case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        return Event::kReady;
      case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        return Event::kKeyRefused;
      case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return Event::kHandshakeImpossible;
      case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return Event::kHandshakeFailed;
      case ZMQ_EVENT_DISCONNECTED:
        return Event::kDisconnected;
      default:
        break;
    }
  }
  return std::nullopt;
}

Status ClientSocket::wait(std::chrono::milliseconds limit, bool for_sending) {
  const auto events = static_cast<short>(ZMQ_POLLIN | (for_sending ? ZMQ_POLLOUT : 0));
  zmq::pollitem_t items[] = {{socket_.handle(), 0, events, 0},
                             {monitor_.handle(), 0, ZMQ_POLLIN, 0}};
  try {
    zmq::poll(items, 2, limit);
  } catch (const zmq::error_t& error) {
    if (error.num() != EINTR) return {StatusCode::kInternal, error.what()};
  }
  return {};
}

}  // namespace ens
