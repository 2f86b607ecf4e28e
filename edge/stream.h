// EdgeStream: classify without waiting for each result.
#pragma once

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
  explicit EdgeStream(const EdgeConfig& config, int64_t window = 64);
  ~EdgeStream();  // waits until all that was submitted is classified

  // images as EdgeClient::classify's. The future never throws: failures are in its status. Images
  // that travelled together fail together.
  std::future<Result<Classified>> submit(const Tensor& images);

  // From any thread, for good: what is pending ends with UNAVAILABLE, at once.
  void cancel();

  const BundleInfo& info() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
