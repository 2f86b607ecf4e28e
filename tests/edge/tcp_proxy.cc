// SPDX-License-Identifier: Apache-2.0
#include "tests/edge/tcp_proxy.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <stdexcept>

namespace ens::test {
namespace {

constexpr size_t kBuffer = 64 << 10;

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

int port_of(const std::string& endpoint) {
  return std::stoi(endpoint.substr(endpoint.rfind(':') + 1));
}

int dial(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = loopback(port);
  if (fd >= 0 && ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    ::close(fd);
    return -1;
  }
  return fd;
}

}  // namespace

int dial(const std::string& endpoint) { return dial(port_of(endpoint)); }

TcpProxy::TcpProxy(const std::string& endpoint)
    : target_port_(port_of(endpoint)), listener_(SOCK_NONBLOCK) {
  endpoint_ = "tcp://127.0.0.1:" + std::to_string(listener_.port());
  thread_ = std::jthread([this](std::stop_token stop) { run(std::move(stop)); });
}

TcpProxy::~TcpProxy() {
  thread_.request_stop();
  thread_.join();
}

std::vector<std::string> TcpProxy::recorded() const {
  const std::lock_guard lock(mutex_);
  return recorded_;
}

void TcpProxy::run(std::stop_token stop) {
  using Clock = std::chrono::steady_clock;
  auto last = Clock::now();
  while (!stop.stop_requested()) {
    const int64_t rate = rate_;
    const bool stalled = stalled_;
    std::vector<pollfd> items = {{listener_.fd(), POLLIN, 0}};
    for (const Connection& c : connections_) {
      for (const Way* way : {&c.up, &c.down}) {
        const bool leave = !way->waiting.empty() && way->allowance >= 1 && !stalled;
        const bool enter = way->waiting.size() < kBuffer && !stalled;
        items.push_back({way->from, static_cast<short>(enter ? POLLIN : 0), 0});
        items.push_back({way->to, static_cast<short>(leave ? POLLOUT : 0), 0});
      }
    }
    ::poll(items.data(), items.size(), 5);
    const auto now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - last).count();
    last = now;
    size_t at = 1;
    for (Connection& c : connections_) {
      for (Way* way : {&c.up, &c.down}) {
        way->allowance = rate > 0 ? std::min(way->allowance, static_cast<double>(rate) / 10) +
                                        static_cast<double>(rate) * seconds
                                  : static_cast<double>(kBuffer);
        if (items[at++].revents & (POLLIN | POLLHUP | POLLERR) && !stalled) receive(c, *way);
        if (items[at++].revents & POLLOUT) pass(c, *way);
      }
    }
    const bool all = cut_.exchange(false);
    std::erase_if(connections_, [&](Connection& c) {
      if (!all && !c.ended) return false;
      ::close(c.up.from), ::close(c.up.to);
      return true;
    });
    if (items[0].revents & POLLIN) accept();
  }
  for (const Connection& c : connections_) ::close(c.up.from), ::close(c.up.to);
}

void TcpProxy::accept() {
  const int near = ::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC);
  if (near < 0) return;
  const int far = dial(target_port_);
  if (far < 0) {
    ::close(near);
    return;
  }
  const int yes = 1;
  for (const int fd : {near, far}) {
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    ::fcntl(fd, F_SETFL, O_NONBLOCK);
  }
  const std::lock_guard lock(mutex_);
  connections_.push_back({.up = {near, far}, .down = {far, near}, .number = recorded_.size()});
  recorded_.emplace_back();
}

void TcpProxy::receive(Connection& connection, Way& way) {
  char bytes[16384];
  ssize_t n = ::recv(way.from, bytes, sizeof bytes, 0);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) {  // what still waits is lost, as it may be on any network
    connection.ended = true;
    return;
  }
  if (&way == &connection.up) {
    if (cut_after_ >= 0 && (cut_after_ -= n) < 0) {
      n += cut_after_;
      cut_after_ = -1;
      connection.ended = true;
    }
    if (recording_) {
      const std::lock_guard lock(mutex_);
      recorded_[connection.number].append(bytes, static_cast<size_t>(n));
    }
  }
  way.waiting.append(bytes, static_cast<size_t>(n));
  if (connection.ended) pass(connection, way);
}

void TcpProxy::pass(Connection& connection, Way& way) {
  const size_t most = std::min(way.waiting.size(), static_cast<size_t>(way.allowance));
  const ssize_t n = ::send(way.to, way.waiting.data(), most, MSG_NOSIGNAL);
  if (n < 0) {
    if (errno != EAGAIN) connection.ended = true;
    return;
  }
  way.waiting.erase(0, static_cast<size_t>(n));
  way.allowance -= static_cast<double>(n);
}

}  // namespace ens::test
