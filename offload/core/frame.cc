// SPDX-License-Identifier: Apache-2.0
#include "offload/core/frame.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <new>

namespace ens {
namespace {

struct Header {
  uint32_t kind, number;
  uint64_t length;
};

bool send_all(int socket, const void* data, size_t size) {
  const auto* at = static_cast<const std::byte*>(data);
  while (size > 0) {
    const ssize_t sent = ::send(socket, at, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    at += sent;
    size -= static_cast<size_t>(sent);
  }
  return true;
}

bool receive_all(int socket, void* data, size_t size) {
  auto* at = static_cast<std::byte*>(data);
  while (size > 0) {
    const ssize_t got = ::recv(socket, at, size, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    size -= static_cast<size_t>(got);
  }
  return true;
}

bool skip(int socket, uint64_t size) {
  std::byte dropped[4096];
  for (; size > 0; size -= std::min<uint64_t>(size, sizeof dropped)) {
    if (!receive_all(socket, dropped, std::min<uint64_t>(size, sizeof dropped))) return false;
  }
  return true;
}

}  // namespace

bool send_frame(int socket, const Frame& frame) {
  const Header header{frame.kind, frame.number, frame.data.size()};
  return send_all(socket, &header, sizeof header) &&
         send_all(socket, frame.data.data(), frame.data.size());
}

bool receive_frame(int socket, Frame& frame) {
  Header header{};
  if (!receive_all(socket, &header, sizeof header)) return false;
  if (header.kind < Frame::kSettings || header.kind > Frame::kError ||
      header.length > static_cast<uint64_t>(kMaxEnclaveFrame)) {
    return false;
  }
  frame.kind = header.kind;
  frame.number = header.number;
  try {
    frame.data.resize(header.length);
  } catch (const std::bad_alloc&) {
    frame = {};
    return skip(socket, header.length);
  }
  return receive_all(socket, frame.data.data(), frame.data.size());
}

std::string call_context(const std::string& what, uint64_t call) {
  return what + " " + std::to_string(call);
}

std::vector<std::byte> seal_context(std::string_view session, uint64_t step, uint32_t share) {
  std::vector<std::byte> out;
  for (const char c : session) out.push_back(static_cast<std::byte>(c));
  put(out, step);
  put(out, share);
  return out;
}

}  // namespace ens
