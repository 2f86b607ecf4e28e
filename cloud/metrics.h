// What an operator watches, in Prometheus' text format: counts and times, never contents.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "cloud/served_bundle.h"
#include "net/server_socket.h"
#include "proto/status.h"

namespace ens {

// Thread-safe; every method is cheap enough for each request.
class Metrics {
 public:
  // waiting: images in the queue now, asked for at each text().
  explicit Metrics(std::function<int64_t()> waiting);
  ~Metrics();

  void publish(const ServedBundles& served, const std::string& state);
  void replied(StatusCode code, const std::string& client);  // client: its key's name, or empty
  void computed(const ServedBundle& served, int64_t images,
                std::chrono::nanoseconds compute);                                 // one batch
  void computed_for(const std::string& client, int64_t images);                    // one request
  void finished(std::chrono::nanoseconds queued, std::chrono::nanoseconds total);  // one request
  void reloaded(bool ok);
  void accepted(const std::string& client);  // a handshake
  void connections(int64_t open);
  void refused(Refusal why);

  std::string text() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
