// SPDX-License-Identifier: Apache-2.0
// Messages between our two sockets, and between ours and plain ZeroMQ ones.
#include "net/message.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <new>
#include <zmq_addon.hpp>

#include "net/client_socket.h"
#include "net/server_socket.h"
#include "proto/wire.pb.h"
#include "tests/support/temp_dir.h"

namespace {
// Of this thread: so many allocations succeed, then one fails. Negative: all succeed.
thread_local int g_allocations_left = -1;
}  // namespace

// Not inlined: GCC would take free() for a mistake.
[[gnu::noinline]] void* operator new(size_t size) {
  if (g_allocations_left >= 0 && g_allocations_left-- == 0) throw std::bad_alloc();
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace ens {
namespace {

using std::chrono::milliseconds;
using Frames = std::vector<std::string>;

wire::Reply reply_with_id(uint64_t id) {
  wire::Reply reply;
  reply.set_id(id);
  reply.set_message("a text that is too long to be kept inside of a std::string");
  return reply;
}

class MessageTest : public testing::Test {
 protected:
  MessageTest()
      : server_("tcp://127.0.0.1:*", std::nullopt, 1 << 20, {}),
        plain_(context_, zmq::socket_type::dealer) {
    plain_.set(zmq::sockopt::linger, 0);
    plain_.set(zmq::sockopt::rcvtimeo, 10000);
    plain_.connect(server_.endpoint());
  }
  void send(const Frames& frames) {
    std::vector<zmq::const_buffer> buffers;
    for (const std::string& frame : frames) buffers.push_back(zmq::buffer(frame));
    zmq::send_multipart(plain_, buffers);
  }
  // What the plain client gets next.
  Frames receive() {
    std::vector<zmq::message_t> frames;
    if (!zmq::recv_multipart(plain_, std::back_inserter(frames))) ADD_FAILURE() << "no message";
    Frames texts;
    for (const zmq::message_t& frame : frames) texts.push_back(frame.to_string());
    return texts;
  }
  // What the server gets next.
  Message next() {
    Message message;
    for (int i = 0; i < 1000; ++i) {
      if (server_.receive(message)) return message;
      server_.wait(milliseconds(10));
    }
    ADD_FAILURE() << "no message";
    return message;
  }

  ServerSocket server_;
  zmq::context_t context_;
  zmq::socket_t plain_;
};

TEST_F(MessageTest, FramesBeyondTheSecondAreCountedAndDropped) {
  send({"header"});
  send({"header", "tensor"});
  send({"header", "tensor", "more", "", "and more"});
  send({"last"});
  const Message one = next(), two = next(), five = next(), last = next();
  EXPECT_EQ(one.frames, 1);
  EXPECT_EQ(two.frames, 2);
  EXPECT_EQ(five.frames, 5);
  EXPECT_EQ(last.frames, 1);
  EXPECT_EQ(one.header.to_string(), "header");
  EXPECT_EQ(two.tensor.to_string(), "tensor");
  EXPECT_EQ(five.tensor.to_string(), "tensor");
  EXPECT_EQ(last.header.to_string(), "last");
}

TEST_F(MessageTest, ATensorTravelsWithoutACopy) {
  const Tensor tensor = Tensor::from({1, 2, 3}, {3});
  const std::vector<WireFrame> frames = to_frames(reply_with_id(1), tensor);
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_EQ(frames[1].data(), tensor.raw());
  EXPECT_EQ(frames[1].size(), 12u);
  EXPECT_EQ(to_frames(reply_with_id(1), Tensor()).size(), 1u);
}

// Frames that were sent while a later one could not be built would become part of the next message.
TEST_F(MessageTest, WhateverAllocationFailsAMessageIsSentWholeOrNotAtAll) {
  send({"hello"});
  const Message hello = next();
  const auto peer = [&] { return WireFrame(hello.peer.data(), hello.peer.size()); };
  const Tensor tensor = Tensor::from({1, 2, 3}, {3});
  const auto expect_whole = [&](uint64_t id) {
    const Frames frames = receive();
    wire::Reply reply;
    ASSERT_EQ(frames.size(), 2u) << "after " << id << " allocations";
    ASSERT_TRUE(reply.ParseFromString(frames[0]));
    EXPECT_EQ(reply.id(), id);
    EXPECT_EQ(frames[1].size(), tensor.bytes());
  };
  bool failed = true;
  int failures = 0;
  for (int allocations = 0; failed && allocations < 100; ++allocations) {
    const wire::Reply lost = reply_with_id(1000), next_reply = reply_with_id(allocations);
    WireFrame to = peer();
    failed = false;
    g_allocations_left = allocations;
    try {
      server_.send(std::move(to), lost, tensor);
    } catch (const std::bad_alloc&) {
      failed = true;
      ++failures;
    }
    g_allocations_left = -1;
    if (!failed) expect_whole(1000);
    server_.send(peer(), next_reply, tensor);
    expect_whole(static_cast<uint64_t>(allocations));
  }
  EXPECT_FALSE(failed);
  EXPECT_GE(failures, 3);  // the header's text, the list of frames, the tensor's owner
}

TEST_F(MessageTest, AClientSeesItsConnectionComeAndMessagesPass) {
  ClientSocket client({server_.endpoint()}, std::nullopt, 1 << 20);
  wire::Request request;
  request.set_id(7);
  std::vector<ClientSocket::Event> events;
  int64_t bytes = 0;
  for (int i = 0; i < 1000 && (bytes == 0 || events.size() < 2); ++i) {
    ASSERT_TRUE(client.wait(milliseconds(10), bytes == 0).ok());
    while (const auto event = client.next_event()) events.push_back(*event);
    if (bytes == 0) bytes = client.send(request, Tensor::from({1, 2}, {2}));
  }
  using Event = ClientSocket::Event;
  EXPECT_EQ(events, (std::vector<Event>{Event::kConnected, Event::kReady}));
  EXPECT_EQ(bytes, static_cast<int64_t>(request.ByteSizeLong() + 8));
  Message at_server = next();
  EXPECT_EQ(at_server.frames, 2);
  server_.send(std::move(at_server.peer), reply_with_id(7), Tensor());
  Message reply;
  for (int i = 0; i < 1000 && !client.receive(reply); ++i) {
    ASSERT_TRUE(client.wait(milliseconds(10), false).ok());
  }
  EXPECT_EQ(reply.frames, 1);
  EXPECT_EQ(reply.header.to_string(), reply_with_id(7).SerializeAsString());
}

TEST(AllowedKeys, EachChangeIsReportedOnce) {
  const test::TempDir folder;
  std::filesystem::create_directory(folder / "clients");
  for (const char* name : {"anna", "bert"}) {
    write_keys(folder / name, new_keys());
    std::filesystem::copy(folder / (std::string(name) + ".pub"), folder / "clients");
  }
  const std::string anna = read_public_key(folder / "anna.pub");
  std::vector<AllowedKeys::Change> changes;
  AllowedKeys keys(folder / "clients", [&](const auto& change) { changes.push_back(change); });
  keys.refresh(true);
  EXPECT_TRUE(changes.empty());
  std::filesystem::remove(folder / "clients/anna.pub");
  keys.refresh(true);
  keys.refresh(true);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].before, 2u);
  EXPECT_EQ(changes[0].now, 1u);
  EXPECT_EQ(changes[0].error, "");
  EXPECT_FALSE(keys.find(anna));

  std::filesystem::rename(folder / "clients", folder / "elsewhere");
  keys.refresh(true);
  ASSERT_EQ(changes.size(), 2u);
  EXPECT_NE(changes[1].error, "");
  EXPECT_EQ(changes[1].now, 1u);
  EXPECT_TRUE(keys.find(read_public_key(folder / "bert.pub")));
}

}  // namespace
}  // namespace ens
