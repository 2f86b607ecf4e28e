#include "net/server_socket.h"

#include <google/protobuf/message_lite.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "net/limits.h"

namespace ens {
namespace {

bool readable(const zmq::socket_t& socket) {
  return (socket.get(zmq::sockopt::events) & ZMQ_POLLIN) != 0;
}

}  // namespace

ServerSocket::Event::Event() : fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (fd < 0) fail(std::string("no event descriptor: ") + std::strerror(errno));
}
ServerSocket::Event::~Event() { ::close(fd); }

ServerSocket::ServerSocket(const std::string& endpoint,
                           const std::optional<ServerSecurity>& security, int64_t max_request,
                           AllowedKeys::Log log_keys)
    : socket_(context_, zmq::socket_type::router) {
  set_max_request(max_request);
  socket_.set(zmq::sockopt::rcvhwm, limits::kHighWater);
  socket_.set(zmq::sockopt::sndhwm, limits::kHighWater);
  socket_.set(zmq::sockopt::linger, limits::kServerLinger);
  socket_.set(zmq::sockopt::handshake_ivl, limits::kServerHandshake);
  socket_.set(zmq::sockopt::heartbeat_ivl, limits::kServerHeartbeat);
  socket_.set(zmq::sockopt::heartbeat_timeout, limits::kServerHeartbeatTimeout);
  socket_.set(zmq::sockopt::backlog, limits::kBacklog);
  if (endpoint.find('[') != std::string::npos) socket_.set(zmq::sockopt::ipv6, 1);
  if (security) {
    zap_.emplace(context_, security->clients, std::move(log_keys));
    socket_.set(zmq::sockopt::curve_server, 1);
    socket_.set(zmq::sockopt::curve_secretkey, security->keys.secret_key.z85());
    socket_.set(zmq::sockopt::zap_domain, "ensembler");
  }
  try {
    socket_.bind(endpoint);
  } catch (const zmq::error_t& error) {
    const bool taken = error.num() == EADDRINUSE;
    fail(std::string("cannot listen: ") + error.what(), endpoint,
         taken ? "another process has this address; choose another port with --bind"
               : "check --bind: tcp://HOST:PORT of this machine");
  }
  endpoint_ = socket_.get(zmq::sockopt::last_endpoint);
}

void ServerSocket::set_max_request(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  socket_.set(zmq::sockopt::maxmsgsize, bytes + limits::kCurveOverhead);
}

void ServerSocket::reread_keys() {
  reread_keys_.store(true);
  wake();
}

void ServerSocket::wake() {
  const int saved = errno;  // a signal handler must leave it alone
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(wake_.fd, &one, sizeof one);
  errno = saved;
}

// zmq::poll() would touch the socket while another thread sends on it: this waits for the sockets'
// descriptors. They tell only once that something happened, so the sockets are asked first.
void ServerSocket::wait(std::chrono::milliseconds limit) {
  if (zap_)
    limit = limit.count() < 0 ? AllowedKeys::kInterval : std::min(limit, AllowedKeys::kInterval);
  std::array<pollfd, 3> fds = {pollfd{wake_.fd, POLLIN, 0}, {-1, POLLIN, 0}, {-1, POLLIN, 0}};
  bool ready = zap_ && readable(zap_->socket());
  {
    const std::lock_guard lock(mutex_);
    ready = readable(socket_) || ready;
    fds[1].fd = socket_.get(zmq::sockopt::fd);
  }
  if (zap_) fds[2].fd = zap_->socket().get(zmq::sockopt::fd);
  ::poll(fds.data(), fds.size(), ready ? 0 : static_cast<int>(limit.count()));
  uint64_t count;
  [[maybe_unused]] const ssize_t n = ::read(wake_.fd, &count, sizeof count);  // EAGAIN: no wake()
  if (zap_) {
    zap_->keys().refresh(reread_keys_.exchange(false));
    zap_->reply();
  }
}

bool ServerSocket::receive(Message& message) {
  message.frames = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!socket_.recv(message.peer, zmq::recv_flags::dontwait)) return false;
    if (message.peer.more()) ens::receive(socket_, message);
  }
  if (zap_ && message.frames > 0 && !zap_->allows(message.header)) {
    ++refused_messages_;
    message.frames = 0;
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
