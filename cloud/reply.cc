#include "cloud/reply.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "nn/core/error.h"

namespace ens {

Outbox::Outbox() : fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (fd_ < 0) fail(std::string("no event descriptor: ") + std::strerror(errno));
}

Outbox::~Outbox() { ::close(fd_); }

void Outbox::put(Outgoing outgoing) {
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(outgoing));
  }
  unanswered_.fetch_sub(1);  // at 0 everything is here
  wake();
}

std::vector<Outgoing> Outbox::take() {
  uint64_t count;
  [[maybe_unused]] const ssize_t n = ::read(fd_, &count, sizeof count);  // EAGAIN: nothing new
  const std::lock_guard lock(mutex_);
  return std::exchange(waiting_, {});
}

void Outbox::wake() {
  const int saved = errno;  // a signal handler must leave it alone
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(fd_, &one, sizeof one);
  errno = saved;
}

ReplyOnce::ReplyOnce(std::shared_ptr<Outbox> outbox, zmq::message_t peer, uint64_t id)
    : outbox_(std::move(outbox)), peer_(std::move(peer)), id_(id) {
  outbox_->unanswered_.fetch_add(1);
}

ReplyOnce::~ReplyOnce() {
  if (outbox_) send(Status{StatusCode::kInternal, "the request was dropped"});
}

ReplyOnce& ReplyOnce::operator=(ReplyOnce&& other) noexcept {
  ReplyOnce old(std::move(*this));  // answers, if it still had to
  outbox_ = std::move(other.outbox_);
  peer_ = std::move(other.peer_);
  id_ = other.id_;
  return *this;
}

void ReplyOnce::send(const Status& status) {
  wire::Reply header;
  header.set_code(static_cast<uint32_t>(status.code));
  header.set_message(status.message);
  send(std::move(header));
}

void ReplyOnce::send(wire::Reply header, Tensor tensor) {
  if (!outbox_) return;
  header.set_id(id_);
  const auto outbox = std::move(outbox_);
  outbox->put({std::move(peer_), std::move(header), std::move(tensor)});
}

}  // namespace ens
