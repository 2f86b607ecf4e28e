#include "cloud/batch_queue.h"

#include <algorithm>

namespace ens {

BatchQueue::BatchQueue(const Options& options, std::function<Clock::time_point()> clock)
    : options_(options), clock_(std::move(clock)) {}

Status BatchQueue::push(Job& job) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return {StatusCode::kUnavailable, "the cloud is shutting down"};
    if (images_ + job.images > options_.max_queue) drop_expired(clock_());
    if (images_ + job.images > options_.max_queue) {
      return {StatusCode::kResourceExhausted, "the cloud's queue is full; try later"};
    }
    next_deadline_ = std::min(next_deadline_, job.deadline);
    jobs_.push_back(std::move(job));
    images_ += jobs_.back().images;  // counted once it is in
  }
  changed_.notify_one();
  return {};
}

void BatchQueue::drop_expired(Clock::time_point now) {
  if (now < next_deadline_) return;
  next_deadline_ = Clock::time_point::max();
  std::erase_if(jobs_, [&](Job& job) {
    if (job.deadline > now) {
      next_deadline_ = std::min(next_deadline_, job.deadline);
      return false;
    }
    job.reply.send(Status{StatusCode::kDeadlineExceeded, "the deadline passed in the queue"});
    images_ -= job.images;
    return true;
  });
}

Clock::time_point BatchQueue::expire(Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  drop_expired(now);
  return next_deadline_;
}

BatchQueue::Decision BatchQueue::poll(Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  drop_expired(now);
  Decision decision;
  if (jobs_.empty()) return decision;

  size_t count = 0;
  int64_t images = 0;
  while (count < jobs_.size() &&
         (count == 0 || (images + jobs_[count].images <= options_.max_batch &&
                         jobs_[count].served == jobs_[0].served))) {
    images += jobs_[count++].images;
  }
  const bool full = images >= options_.max_batch || count < jobs_.size();
  const auto due = jobs_.front().arrived + options_.delay;
  if (!full && !closed_ && now < due) {
    decision.sleep = due - now;
    return decision;
  }
  for (; count > 0; --count) {
    decision.batch.push_back(std::move(jobs_.front()));
    jobs_.pop_front();
  }
  images_ -= images;
  return decision;
}

std::vector<Job> BatchQueue::next() {
  while (true) {
    Decision decision = poll(clock_());
    if (!decision.batch.empty()) return std::move(decision.batch);
    std::unique_lock lock(mutex_);
    if (jobs_.empty()) {
      if (closed_) return {};
      changed_.wait(lock, [&] { return closed_ || !jobs_.empty(); });
    } else {
      // A push may complete the batch before the time is up; poll() decides again.
      changed_.wait_for(lock, std::min<Clock::duration>(decision.sleep, options_.delay));
    }
  }
}

void BatchQueue::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
}

void BatchQueue::abandon() {
  close();
  const std::lock_guard lock(mutex_);
  jobs_.clear();
  images_ = 0;
}

int64_t BatchQueue::waiting() const {
  const std::lock_guard lock(mutex_);
  return images_;
}

}  // namespace ens
