// SPDX-License-Identifier: Apache-2.0
#include "base/lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "base/error.h"

namespace ens {
namespace {

Fd open_lock(const std::filesystem::path& file, unsigned mode) {
  Fd fd(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, mode));
  if (!fd) {
    fail(std::string("cannot create the file: ") + std::strerror(errno), file.string(),
         "choose a folder that is writable");
  }
  return fd;
}

// Returns 0 or errno.
int lock(const Fd& fd, int how) {
  while (flock(fd.get(), how) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

[[noreturn]] void cannot_lock(int error, const std::filesystem::path& file) {
  fail(std::string("cannot lock the file: ") + std::strerror(error), file.string(),
       "choose a folder on a local disk");
}

}  // namespace

FileLock FileLock::wait_for(const std::filesystem::path& file, unsigned mode) {
  FileLock held;
  held.fd_ = open_lock(file, mode);
  if (const int error = lock(held.fd_, LOCK_EX); error != 0) cannot_lock(error, file);
  return held;
}

FileLock FileLock::try_once(const std::filesystem::path& file, unsigned mode) {
  FileLock held;
  Fd fd = open_lock(file, mode);
  const int error = lock(fd, LOCK_EX | LOCK_NB);
  if (error != 0 && error != EWOULDBLOCK) cannot_lock(error, file);
  if (error == EWOULDBLOCK) {
    char text[32] = {};
    const ssize_t n = pread(fd.get(), text, sizeof text - 1, 0);
    held.taken_ = true;
    held.owner_ = n > 0 ? std::strtol(text, nullptr, 10) : 0;
    return held;
  }
  held.fd_ = std::move(fd);
  const std::string owner = std::to_string(getpid()) + "\n";
  if (ftruncate(held.fd_.get(), 0) != 0 ||
      pwrite(held.fd_.get(), owner.data(), owner.size(), 0) != static_cast<ssize_t>(owner.size())) {
    fail(std::string("cannot write the file: ") + std::strerror(errno), file.string(),
         "free some disk space");
  }
  return held;
}

}  // namespace ens
