// BatchQueue: accepted requests, until they are computed together.
//
// Contract:
// - push() returns at once. Ownership moves only on OK; otherwise the job is untouched and the
// caller
//   answers it. Full: RESOURCE_EXHAUSTED. Closed: UNAVAILABLE.
// - A batch is a run of requests in order of arrival, at most `max_batch` images together. Requests
//   are never split: one that alone is larger makes a batch of its own. All are of one Serving.
// - A request whose deadline has passed is answered DEADLINE_EXCEEDED and never handed out.
// - Time comes from the caller (`clock`), so that tests need not wait.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <vector>

#include "cloud/reply.h"
#include "nn/core/tensor.h"

namespace ens {

using Clock = std::chrono::steady_clock;

struct Serving;

struct Job {
  std::shared_ptr<Serving> serving;  // what it was checked against, and is computed by
  zmq::message_t features;           // raw [images, C, H, W], checked
  wire::TensorInfo encoding;
  int64_t images = 1;
  Clock::time_point arrived;
  Clock::time_point deadline = Clock::time_point::max();
  ReplyOnce reply;
};

class BatchQueue {
 public:
  struct Options {
    int64_t max_batch = 32;              // images computed at once
    int64_t max_queue = 1024;            // images waiting: this bounds the memory
    std::chrono::microseconds delay{0};  // how long the oldest request may wait for company
  };

  explicit BatchQueue(const Options& options,
                      std::function<Clock::time_point()> clock = &Clock::now);

  Status push(Job& job);

  // What to do at time `now`: compute `batch` or, if it is empty, sleep this long (or until the
  // next push): Clock::duration::max() when nothing waits.
  struct Turn {
    std::vector<Job> batch;
    Clock::duration sleep = Clock::duration::max();
  };
  Turn turn(Clock::time_point now);

  // Blocks until there is a batch. Empty: closed, and all was handed out.
  std::vector<Job> next();

  void close();             // refuse more; what waits is handed out without delay
  void abandon();           // close(), and drop what waits (each is answered)
  int64_t waiting() const;  // images

 private:
  void drop_expired(Clock::time_point now);  // needs mutex_

  const Options options_;
  const std::function<Clock::time_point()> clock_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  int64_t images_ = 0;
  bool closed_ = false;
};

}  // namespace ens
