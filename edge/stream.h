// SPDX-License-Identifier: Apache-2.0
// EdgeStream: classify without waiting for each result.
#pragma once

#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

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

  // Called once with the result of a submission, by a thread of the stream's; must not throw.
  using Done = std::function<void(Result<Classified> result)>;
  // images as EdgeClient::classify's. Images that travelled together fail together.
  void submit(const Tensor& images, Done done);
  // The same with a future. The future never throws: failures are in its status.
  std::future<Result<Classified>> submit(const Tensor& images);

  // From any thread, for good: what is pending ends with UNAVAILABLE, at once.
  void cancel();

  void request_reload();  // see EdgeClient; only where the file is followed

  // Of the bundle that the stream began with.
  const BundleInfo& info() const;
  const std::vector<std::string>& class_names() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
