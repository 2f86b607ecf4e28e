// EdgeStream: classify without waiting for each answer.
#pragma once

#include <future>
#include <memory>

#include "edge/client.h"

namespace ens {

// Images go in one after the other, each with a future. While the cloud computes, those that wait
// are gathered and travel together. Thread-safe.
class EdgeStream {
 public:
  // window: images that may be under way or waiting; submit() blocks beyond that, so that a camera
  // that is faster than the cloud does not fill the memory. Error as EdgeClient's.
  explicit EdgeStream(const EdgeConfig& config, int64_t window = 64);
  ~EdgeStream();  // what was submitted is still answered

  // images as EdgeClient::classify's. The future never throws: failures are in its status. Images
  // that travelled together fail together.
  std::future<Result<Classified>> submit(const Tensor& images);

  const BundleInfo& info() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
