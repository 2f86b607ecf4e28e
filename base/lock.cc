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

int open_lock(const std::filesystem::path& file, unsigned mode) {
  const int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, mode);
  if (fd < 0) {
    fail(std::string("cannot create the file: ") + std::strerror(errno), file.string(),
         "choose a folder that is writable");
  }
  return fd;
}

// Returns 0 or errno.
int lock(int fd, int how) {
  while (flock(fd, how) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

[[noreturn]] void cannot_lock(int fd, int error, const std::filesystem::path& file) {
  ::close(fd);
  fail(std::string("cannot lock the file: ") + std::strerror(error), file.string(),
       "choose a folder on a local disk");
}

}  // namespace

FileLock FileLock::wait_for(const std::filesystem::path& file, unsigned mode) {
  FileLock held;
  const int fd = open_lock(file, mode);
  if (const int error = lock(fd, LOCK_EX); error != 0) cannot_lock(fd, error, file);
  held.fd_ = fd;
  return held;
}

FileLock FileLock::try_once(const std::filesystem::path& file, unsigned mode) {
  FileLock held;
  const int fd = open_lock(file, mode);
  const int error = lock(fd, LOCK_EX | LOCK_NB);
  if (error != 0 && error != EWOULDBLOCK) cannot_lock(fd, error, file);
  if (error == EWOULDBLOCK) {
    char text[32] = {};
    const ssize_t n = pread(fd, text, sizeof text - 1, 0);
    ::close(fd);
    held.taken_ = true;
    held.owner_ = n > 0 ? std::strtol(text, nullptr, 10) : 0;
    return held;
  }
  held.fd_ = fd;
  const std::string owner = std::to_string(getpid()) + "\n";
  if (ftruncate(fd, 0) != 0 ||
      pwrite(fd, owner.data(), owner.size(), 0) != static_cast<ssize_t>(owner.size())) {
    fail(std::string("cannot write the file: ") + std::strerror(errno), file.string(),
         "free some disk space");
  }
  return held;
}

FileLock::FileLock(FileLock&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), taken_(other.taken_), owner_(other.owner_) {}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(taken_, other.taken_);
  std::swap(owner_, other.owner_);
  return *this;
}

FileLock::~FileLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace ens
