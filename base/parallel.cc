// SPDX-License-Identifier: Apache-2.0
#include "base/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <semaphore>
#include <thread>
#include <vector>

#include "base/threads.h"

namespace ens {
namespace {

// Jobs may have jobs of their own, and each thread has a stream and memory on the GPU.
std::counting_semaphore<kHelperSlots> helper_slots(kHelperSlots);

// The jobs of one call, handed out to whichever thread asks next.
class Jobs {
 public:
  Jobs(int count, const std::function<void(int)>& job) : count_(count), job_(job) {}

  // Works until no job is left, or one has failed.
  void work(const std::function<void()>& before_each = nullptr) {
    for (int i = next_++; i < count_; i = next_++) {
      try {
        if (before_each) before_each();
        job_(i);
      } catch (...) {
        std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
        next_ = count_;
      }
    }
  }
  bool left() const { return next_ < count_; }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  const int count_;
  const std::function<void(int)>& job_;
  std::atomic<int> next_{0};
  std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace

void run_parallel(int count, int parallel, const std::function<void(int)>& job) {
  const int threads = compute_threads();
  const int workers = std::clamp(parallel > 0 ? parallel : threads, 1, std::max(count, 1));
  if (workers == 1) {
    for (int i = 0; i < count; ++i) job(i);
    return;
  }
  Jobs jobs(count, job);
  {
    std::vector<std::jthread> team;
    for (int w = 0; w < workers; ++w) {
      team.emplace_back([&] {
        set_compute_threads(std::max(1, threads / workers));
        pin_compute_threads();
        jobs.work();
      });
    }
  }
  jobs.rethrow();
}

void run_parallel_on_gpu(int count, int parallel, const std::function<void(int)>& job) {
  const int workers = std::clamp(parallel > 0 ? parallel : 1 + kHelperSlots, 1, std::max(count, 1));
  if (workers == 1) {
    for (int i = 0; i < count; ++i) job(i);
    return;
  }
  const int threads = compute_threads(), share = std::max(1, threads / workers);
  Jobs jobs(count, job);
  {
    // This thread takes part, and does it all if no slot is free, so no call waits for another.
    std::vector<std::jthread> team;
    set_compute_threads(share);
    jobs.work([&] {
      while (std::ssize(team) < workers - 1 && jobs.left() && helper_slots.try_acquire()) {
        // Freed with the thread, or at once if it cannot be started.
        const std::shared_ptr<void> slot(nullptr, [](void*) { helper_slots.release(); });
        team.emplace_back([&, slot] {
          set_compute_threads(share);
          unpin_this_thread();
          jobs.work();
        });
      }
    });
    set_compute_threads(threads);
  }
  jobs.rethrow();
}

}  // namespace ens
