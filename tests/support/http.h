// SPDX-License-Identifier: Apache-2.0
// A client of a server's health and metrics.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>

namespace ens::test {

// A connection to HOST:PORT from an address of this machine; -1 if refused.
inline int dial_from(const std::string& source, const std::string& address) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in from{}, to{};
  from.sin_family = to.sin_family = AF_INET;
  ::inet_pton(AF_INET, source.c_str(), &from.sin_addr);
  ::inet_pton(AF_INET, address.substr(0, address.find(':')).c_str(), &to.sin_addr);
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.find(':') + 1))));
  if (::bind(fd, reinterpret_cast<sockaddr*>(&from), sizeof from) != 0 ||
      ::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) {
    ::close(fd);
    return -1;
  }
  const timeval patience{10, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return fd;
}

// What comes until the other end closes. A child process that ends interrupts recv() on a socket
// with a timeout.
inline std::string receive_all(int fd) {
  std::string got;
  char bytes[65536];
  while (true) {
    const ssize_t n = ::recv(fd, bytes, sizeof bytes, 0);
    if (n > 0) {
      got.append(bytes, static_cast<size_t>(n));
    } else if (n == 0 || errno != EINTR) {
      return got;
    }
  }
}

// Status and body of an answer; 0 if there is none.
inline std::pair<int, std::string> http_get(const std::string& address, const std::string& path,
                                            const std::string& method = "GET") {
  const int fd = dial_from("127.0.0.1", address);
  const std::string request =
      method + " " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  (void)::send(fd, request.data(), request.size(), MSG_NOSIGNAL);
  const std::string answer = receive_all(fd);
  ::close(fd);
  const size_t body = answer.find("\r\n\r\n");
  if (answer.rfind("HTTP/1.1 ", 0) != 0 || body == std::string::npos) return {0, answer};
  return {std::stoi(answer.substr(9)), answer.substr(body + 4)};
}

}  // namespace ens::test
