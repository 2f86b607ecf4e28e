// SPDX-License-Identifier: Apache-2.0
// What a socket holds and how long it waits, for every socket of ours.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace ens::limits {

// Whole messages held for one peer, each way. An edge has few pending requests, and a client that
// does not read must not make the cloud hold many replies.
constexpr int kHighWater = 16;

// Bytes of a header frame. INT8 features take 10 bytes for each channel.
constexpr size_t kMaxRequestHeader = 16 << 10;
constexpr size_t kMaxReplyHeader = 64 << 10;
// CURVE makes a frame longer by at most this many bytes (libzmq 4.3: 33). ZeroMQ's limit on the
// length of received frames must leave room for it.
constexpr int64_t kCurveOverhead = 64;

// A server's socket; times in milliseconds.
constexpr int kBacklog = 1024;
constexpr int kServerLinger = 1000;     // when it closes, for clients that read slowly
constexpr int kServerHandshake = 5000;  // for strangers that connect and say nothing
constexpr int kServerHeartbeat = 5000,
              kServerHeartbeatTimeout = 20000;  // for clients that vanished

// A client's socket; times in milliseconds.
constexpr int kReconnect = 50, kLongestReconnect = 1000;
constexpr int kClientHandshake = 2000;
constexpr int kClientHeartbeat = 2000,
              kClientHeartbeatTimeout = 10000;  // for a server that vanished

// How long one address of a name may keep a client waiting before the next is tried.
constexpr std::chrono::milliseconds kOtherFamily{250};
constexpr int kGreetingMicroseconds = 300'000;  // for a server's first byte

}  // namespace ens::limits
