// SPDX-License-Identifier: Apache-2.0
#include "net/shedder.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/socket.h>
#include <unistd.h>

namespace ens {
namespace {

// Leaves this thread with `kept` alone, and all others with what they have.
bool own_descriptors(int kept) {
  const auto number = static_cast<unsigned>(kept);
  if (::close_range(number + 1, ~0U, CLOSE_RANGE_UNSHARE) != 0) return false;
  return number == 0 || ::close_range(0, number - 1, 0) == 0;
}

}  // namespace

Shedder::Shedder(int listening) {
  // libzmq and we may both go for the last connection of the queue.
  ::fcntl(listening, F_SETFL, ::fcntl(listening, F_GETFL) | O_NONBLOCK);
  thread_ = std::thread([this, listening] { work(listening); });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return started_; });  // the number stays the socket's until then
}

Shedder::~Shedder() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Shedder::shed() {
  {
    const std::lock_guard lock(mutex_);
    wanted_ = true;
  }
  changed_.notify_all();
}

void Shedder::work(int listening) {
  const bool alone = own_descriptors(listening);
  std::unique_lock lock(mutex_);
  started_ = true;
  changed_.notify_all();
  while (!stop_) {
    changed_.wait(lock, [this] { return stop_ || wanted_; });
    wanted_ = false;
    if (!alone) continue;
    lock.unlock();
    for (int fd = 0; (fd = ::accept4(listening, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) ::close(fd);
    lock.lock();
  }
}

}  // namespace ens
