// SPDX-License-Identifier: Apache-2.0
#include "cloud/reply.h"

namespace ens {

ReplyOnce::ReplyOnce(std::shared_ptr<Outbox> outbox, WireFrame peer, uint64_t id,
                     std::string client)
    : outbox_(std::move(outbox)), peer_(std::move(peer)), id_(id), client_(std::move(client)) {
  outbox_->pending_.fetch_add(1);
}

ReplyOnce::~ReplyOnce() {
  if (outbox_) send(Status{StatusCode::kInternal, "the request was dropped"});
}

ReplyOnce& ReplyOnce::operator=(ReplyOnce&& other) noexcept {
  ReplyOnce old(std::move(*this));  // replies, if it still had to
  outbox_ = std::move(other.outbox_);
  peer_ = std::move(other.peer_);
  id_ = other.id_;
  client_ = std::move(other.client_);
  return *this;
}

void ReplyOnce::send(const Status& status) {
  wire::Reply header;
  header.set_code(static_cast<uint32_t>(status.code));
  header.set_message(status.message);
  send(std::move(header));
}

void ReplyOnce::send(wire::Reply header, Tensor tensor, wire::DType dtype) {
  if (!outbox_) return;
  header.set_id(id_);
  const auto outbox = std::move(outbox_);
  outbox->deliver_(
      {std::move(peer_), std::move(client_), std::move(header), std::move(tensor), dtype});
  outbox->pending_.fetch_sub(1);
}

}  // namespace ens
