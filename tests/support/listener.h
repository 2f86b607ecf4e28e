// SPDX-License-Identifier: Apache-2.0
// A TCP socket that listens on a free port of the loopback interface.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <stdexcept>

#include "base/fd.h"

namespace ens::test {

class Listener {
 public:
  // `flags`: more for socket(), such as SOCK_NONBLOCK.
  explicit Listener(int flags = 0) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (!fd_ || bind(fd(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        listen(fd(), 64) != 0 ||
        getsockname(fd(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      throw std::runtime_error("cannot listen on the loopback interface");
    }
    port_ = ntohs(address.sin_port);
  }

  int fd() const { return fd_.get(); }
  uint16_t port() const { return port_; }

 private:
  Fd fd_;
  uint16_t port_ = 0;
};

}  // namespace ens::test
