// SPDX-License-Identifier: Apache-2.0
// File descriptors that close themselves.
#pragma once

#include <string_view>
#include <utility>

namespace ens {

class Fd {
 public:
  Fd() = default;                   // none
  explicit Fd(int fd) : fd_(fd) {}  // what open() returned; negative: none
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();

  explicit operator bool() const { return fd_ >= 0; }
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

// Writes all bytes, also in several pieces. False, with errno, if that fails.
bool write_all(const Fd& fd, std::string_view bytes);

}  // namespace ens
