// SPDX-License-Identifier: Apache-2.0
// EdgeStream: classify without waiting for each result.
#pragma once

#include <functional>
#include <future>
#include <memory>

#include "edge/client.h"

namespace ens {

// Images go in one after the other, each with a future. Those that come while the cloud computes
// are sent together. Thread-safe.
class EdgeStream {
 public:
  // window: images that may be pending; submit() blocks beyond that, so that a camera that is
  // faster than the cloud does not fill the memory. Error as EdgeClient's.
  // on_reload: if given, the bundle's file is followed (EdgeClient::classify_latest); called by a
  // thread of the stream's.
  explicit EdgeStream(const EdgeConfig& config, int64_t window = 64,
                      std::function<void(const Status&)> on_reload = nullptr);
  ~EdgeStream();  // waits until all that was submitted is classified

  // images as EdgeClient::classify's. The future never throws: failures are in its status. Images
  // that travelled together fail together.
  std::future<Result<Classified>> submit(const Tensor& images);

  // From any thread, for good: what is pending ends with UNAVAILABLE, at once.
  void cancel();

  void request_reload();  // see EdgeClient; only where the file is followed

  const BundleInfo& info() const;  // of the bundle that the stream began with

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
