// SPDX-License-Identifier: Apache-2.0
// What an operator watches, in Prometheus' text format: counts and times, never contents.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "cloud/served_bundle.h"
#include "net/metrics/server_metrics.h"

namespace ens {

// Thread-safe; every method is cheap enough for each request.
class Metrics {
 public:
  // waiting: images in the queue now, asked for at each text().
  explicit Metrics(std::function<int64_t()> waiting);
  ~Metrics();

  void publish(const ServedBundles& served, const std::string& state);
  ServerMetrics& server();  // requests, clients, connections
  void computed(const ServedBundle& served, int64_t images,
                std::chrono::nanoseconds compute);                                 // one batch
  void computed_for(const std::string& client, int64_t images);                    // one request
  void finished(std::chrono::nanoseconds queued, std::chrono::nanoseconds total);  // one request
  void reloaded(bool ok);

  std::string text() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
