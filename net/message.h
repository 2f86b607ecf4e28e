// SPDX-License-Identifier: Apache-2.0
// Messages as ZeroMQ carries them: one header frame, which is a Protobuf message of
// proto/wire.proto, and at most one tensor frame (docs/protocol.md). Read net/client_socket.h and
// net/server_socket.h next.
#pragma once

#include <cstdint>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "nn/core/tensor.h"

namespace google::protobuf {
class MessageLite;
}

namespace ens {

constexpr uint32_t kProtocolVersion = 1;

// One frame: data(), size(). The memory may be unaligned.
using WireFrame = zmq::message_t;

// A message as it was received.
struct Message {
  WireFrame peer;      // a server's: the client to reply to
  std::string client;  // a server's: the name of the client's key; empty without keys
  WireFrame header, tensor;
  int frames = 0;  // 1: there is no tensor. Frames beyond the second are dropped, but counted
};

// The frames of a message. A tensor that is defined is not copied: its frame keeps it alive until
// libzmq has sent it.
std::vector<WireFrame> to_frames(const google::protobuf::MessageLite& header, Tensor tensor);

// Sends a message or nothing of it, without waiting. False: the socket takes none now.
bool send(zmq::socket_t& socket, std::vector<WireFrame>& frames);

// Receives header and tensor, without waiting. False: there is no message.
bool receive(zmq::socket_t& socket, Message& message);

}  // namespace ens
