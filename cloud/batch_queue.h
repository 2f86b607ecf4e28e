// SPDX-License-Identifier: Apache-2.0
// BatchQueue: accepted requests, until they are computed together.
//
// - push() returns at once. It takes the job only on OK; otherwise the caller still has it and
//   replies. Full, or too much of one client: RESOURCE_EXHAUSTED. Closed: UNAVAILABLE.
// - A batch is requests for the same ServedBundle with at most `max_batch` images in all. Requests
//   are never split: a larger one is a batch of its own.
// - Clients take turns (deficit round robin: Shreedhar and Varghese, SIGCOMM 1995): those who wait
//   get equally many images; the requests of each stay in order. When the queue is full, the
//   client that has most in it gives way to those with less.
// - A batch cannot be broken off, so it must not keep a client waiting for much longer than that
//   client's own requests take: while a client is active that asks for one thing at a time, those
//   who have more waiting get batches that are as short (see backlog_batch()).
// - A request whose deadline has passed gets the reply DEADLINE_EXCEEDED and is never handed out.
// - Time comes from the caller (`clock`), so that tests need not wait. Thread-safe.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "cloud/reply.h"
#include "nn/core/tensor.h"

namespace ens {

using Clock = std::chrono::steady_clock;

struct ServedBundle;

struct Job {
  std::string client;                    // whose turn it takes: a key's name, or a connection
  std::shared_ptr<ServedBundle> served;  // what it was checked against, and is computed by
  WireFrame features;                    // raw [images, C, H, W], checked
  wire::TensorInfo encoding;
  int64_t images = 1;
  Clock::time_point arrived;
  Clock::time_point deadline = Clock::time_point::max();
  wire::DType reply_dtype = wire::FLOAT32;  // as asked for, which may be unknown
  ReplyOnce reply;
};

class BatchQueue {
 public:
  struct Options {
    int64_t max_batch = 32;              // images computed at once
    int64_t max_queue = 1024;            // images waiting: this bounds the memory
    std::chrono::microseconds delay{0};  // how long the oldest request may wait for others
    int64_t max_client_queue = 0;        // images of one client waiting; 0: max_queue
    double max_client_rate = 0;          // images a second of one client; 0: no limit
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

  // A batch that was handed out has been computed; to be called before its replies are sent.
  void finished(const std::vector<Job>& batch, Clock::duration compute);

  // Replies to requests whose deadline has passed. When to call it again: no deadline that is known
  // now passes before.
  Clock::time_point expire(Clock::time_point now);

  void close();             // refuse more; what waits is handed out without delay
  void abandon();           // close(), and drop what waits (each request gets a reply)
  int64_t waiting() const;  // images

 private:
  // Remembered for as long as it can matter.
  struct Client {
    std::deque<Job> jobs;
    int64_t images = 0;      // of them
    int64_t deficit = 0;     // images it may have now
    int64_t last_batch = 0;  // the number of the last batch that it had a part in
    double tokens = 0;       // images it may send now, see max_client_rate
    Clock::time_point seen, refilled, last_reply;
    int64_t last_images = 0;   // of its latest request
    double think_seconds = 0;  // between a reply and its next request, on average
    int64_t computing = 0;     // requests handed out and not finished
  };

  void drop_expired(Clock::time_point now);  // all of these need mutex_
  void forget_idle(Clock::time_point now);
  Status admit(Client& client, int64_t images, Clock::time_point now);
  bool make_room(const Client& client, int64_t images);
  int64_t backlog_batch(Clock::time_point now) const;
  double seconds_of(int64_t images) const;
  std::vector<Job> take(Clock::time_point now);
  Job pop(Client& client);

  const Options options_;
  const std::function<Clock::time_point()> clock_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Client> clients_;
  std::deque<Client*> turns_;  // clients with jobs; the first has its turn
  int64_t images_ = 0;
  int64_t batches_ = 0;                                         // handed out
  Clock::time_point next_deadline_ = Clock::time_point::max();  // at the earliest
  Clock::time_point next_forget_{};
  std::array<double, 16> cost_{};  // seconds of a batch of 2^i to 2^(i+1)-1 images; 0: not known
  bool closed_ = false;
};

}  // namespace ens
