// SPDX-License-Identifier: Apache-2.0
// Hub: what happens, told to every open page as server-sent events. Each event has an id; a page
// that was away names the last one it saw and is sent what it missed.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "net/http/server.h"
#include "proto/studio.pb.h"

namespace ens {

class Hub {
 public:
  Hub();
  ~Hub();

  void publish(const studio::Event& event);
  // A stream of all events after `last_id`; empty: from now on. If those are no longer known, the
  // page is told to start from a snapshot (event "reset").
  HttpReply open(const std::string& last_id);

  static constexpr size_t kReplayed = 1000;  // events that are remembered
  static constexpr size_t kWaiting = 256;    // that a slow reader may leave unread

 private:
  struct Sent {
    uint64_t number;
    std::string text;
  };
  std::string id(uint64_t number) const;

  const std::string boot_;  // tells the ids of this process from those of another
  mutable std::mutex mutex_;
  std::condition_variable end_;
  bool over_ = false;
  uint64_t next_ = 1;
  std::deque<Sent> replay_;
  std::vector<std::shared_ptr<HttpStream>> streams_;
  std::thread heartbeat_;  // finds readers that have gone, and keeps proxies from closing
};

}  // namespace ens
