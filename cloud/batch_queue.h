// BatchQueue: accepted requests, until they are computed together.
//
// - push() returns at once. It takes the job only on OK; otherwise the caller still has it and
//   replies. Full: RESOURCE_EXHAUSTED. Closed: UNAVAILABLE.
// - A batch is consecutive requests in order of arrival, for the same ServedBundle, with at most
//   `max_batch` images in all. Requests are never split: a larger one is a batch of its own.
// - A request whose deadline has passed gets the reply DEADLINE_EXCEEDED and is never handed out.
// - Time comes from the caller (`clock`), so that tests need not wait. Thread-safe.
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

struct ServedBundle;

struct Job {
  std::shared_ptr<ServedBundle> served;  // what it was checked against, and is computed by
  WireFrame features;                    // raw [images, C, H, W], checked
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
    std::chrono::microseconds delay{0};  // how long the oldest request may wait for others
  };

  explicit BatchQueue(const Options& options,
                      std::function<Clock::time_point()> clock = &Clock::now);

  Status push(Job& job);

  // What to do at time `now`: compute `batch` or, if it is empty, sleep this long or until the next
  // push. Clock::duration::max(): nothing waits.
  struct Decision {
    std::vector<Job> batch;
    Clock::duration sleep = Clock::duration::max();
  };
  Decision poll(Clock::time_point now);

  // Blocks until there is a batch. Empty: the queue is closed, and all was handed out.
  std::vector<Job> next();

  // Replies to requests whose deadline has passed. When to call it again: no deadline that is known
  // now passes before.
  Clock::time_point expire(Clock::time_point now);

  void close();             // refuse more; what waits is handed out without delay
  void abandon();           // close(), and drop what waits (each request gets a reply)
  int64_t waiting() const;  // images

 private:
  void drop_expired(Clock::time_point now);  // needs mutex_

  const Options options_;
  const std::function<Clock::time_point()> clock_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  int64_t images_ = 0;
  Clock::time_point next_deadline_ = Clock::time_point::max();  // at the earliest
  bool closed_ = false;
};

}  // namespace ens
