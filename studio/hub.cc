// SPDX-License-Identifier: Apache-2.0
#include "studio/hub.h"

#include <charconv>

#include "base/strings.h"
#include "base/threads.h"
#include "nn/core/rng.h"
#include "proto/results.h"

namespace ens {
namespace {

constexpr std::chrono::seconds kHeartbeat{15};
constexpr const char* kReset = "event: reset\ndata: {}\n\n";

std::string random_name() {
  const uint64_t value = secure_random();
  return to_hex({reinterpret_cast<const char*>(&value), sizeof value});
}

}  // namespace

Hub::Hub() : boot_(random_name()) {
  heartbeat_ = std::thread([this] {
    unpin_this_thread();
    std::unique_lock lock(mutex_);
    while (!end_.wait_for(lock, kHeartbeat, [&] { return over_; })) {
      std::erase_if(streams_, [](const auto& stream) { return !stream->send(": \n\n"); });
    }
  });
}

Hub::~Hub() {
  {
    std::lock_guard lock(mutex_);
    over_ = true;
    for (const auto& stream : streams_) stream->close();
  }
  end_.notify_all();
  heartbeat_.join();
}

std::string Hub::id(uint64_t number) const { return boot_ + "-" + std::to_string(number); }

void Hub::publish(const studio::Event& event) {
  const std::string data = results::to_json(event, /*indented=*/false);
  std::lock_guard lock(mutex_);
  const std::string text = "id: " + id(next_) + "\ndata: " + data + "\n\n";
  replay_.push_back({next_++, text});
  if (replay_.size() > kReplayed) replay_.pop_front();
  std::erase_if(streams_, [&](const auto& stream) { return !stream->send(text); });
}

HttpReply Hub::open(const std::string& last_id) {
  auto stream = std::make_shared<HttpStream>(kWaiting, kReset);
  std::lock_guard lock(mutex_);
  // The id of what was sent last, for a page that loses the stream before anything happens.
  std::string start = "retry: 2000\nid: " + id(next_ - 1) + "\nevent: hello\ndata: {}\n\n";
  if (!last_id.empty()) {
    uint64_t seen = 0;
    const size_t dash = last_id.rfind('-');
    const char* end = last_id.data() + last_id.size();
    const bool ours = dash != std::string::npos && last_id.compare(0, dash, boot_) == 0 &&
                      std::from_chars(last_id.data() + dash + 1, end, seen).ptr == end &&
                      seen < next_;
    const uint64_t oldest = replay_.empty() ? next_ : replay_.front().number;
    if (!ours || seen + 1 < oldest) {
      start += kReset;
    } else {
      for (const Sent& sent : replay_) {
        if (sent.number > seen) start += sent.text;
      }
    }
  }
  stream->send(std::move(start));
  if (over_) stream->close();
  streams_.push_back(stream);
  return {.type = "text/event-stream",
          .headers = {{"Cache-Control", "no-store"}, {"X-Accel-Buffering", "no"}},
          .stream = stream};
}

}  // namespace ens
