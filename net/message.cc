// SPDX-License-Identifier: Apache-2.0
#include "net/message.h"

#include <google/protobuf/message_lite.h>

#include <memory>
#include <utility>

namespace ens {
namespace {

WireFrame to_frame(Tensor tensor) {
  auto owner = std::make_unique<Tensor>(std::move(tensor));
  WireFrame frame(
      owner->raw(), owner->bytes(), [](void*, void* hint) { delete static_cast<Tensor*>(hint); },
      owner.get());
  owner.release();  // the frame's from here on
  return frame;
}

}  // namespace

std::vector<WireFrame> to_frames(const google::protobuf::MessageLite& header, Tensor tensor) {
  std::vector<WireFrame> frames;
  frames.emplace_back(header.SerializeAsString());
  if (tensor.defined()) frames.push_back(to_frame(std::move(tensor)));
  return frames;
}

bool send(zmq::socket_t& socket, std::vector<WireFrame>& frames) {
  using zmq::send_flags;
  for (size_t i = 0; i < frames.size(); ++i) {
    const auto more = i + 1 < frames.size() ? send_flags::sndmore : send_flags::none;
    // libzmq takes back the frames before one that it refuses.
    if (!socket.send(frames[i], more | send_flags::dontwait)) return false;
  }
  return true;
}

bool receive(zmq::socket_t& socket, Message& message) {
  message.frames = 0;
  WireFrame rest;
  bool more = true;
  while (more) {  // the frames of a message arrive together
    WireFrame& frame = message.frames == 0   ? message.header
                       : message.frames == 1 ? message.tensor
                                             : rest;
    if (!socket.recv(frame, zmq::recv_flags::dontwait)) break;
    more = frame.more();
    ++message.frames;
  }
  return message.frames > 0;
}

}  // namespace ens
