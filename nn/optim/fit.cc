#include "nn/optim/fit.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "nn/core/error.h"
#include "nn/cpu/threads.h"

namespace ens {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void fit(const FitOptions& options, Loader& loader, Optimizer& optimizer,
         const std::function<Var(const Batch&)>& loss,
         const std::function<void(int64_t, double)>& after_step,
         const std::function<void(const EpochStats&)>& after_epoch) {
  Schedule schedule;
  schedule.kind = options.schedule;
  schedule.peak = options.lr;
  schedule.steps = std::max<int64_t>(1, options.epochs * loader.batches());
  schedule.period = std::max<int64_t>(
      1, options.step_epochs > 0 ? options.step_epochs * loader.batches() : schedule.steps / 3);
  for (int64_t epoch = options.first_epoch; epoch < options.epochs; ++epoch) {
    EpochStats stats;
    stats.epoch = epoch;
    const double start = now(), waited = loader.seconds_waited();
    int64_t step = epoch * loader.batches();
    double total = 0;
    loader.start(epoch);
    for (Batch batch; loader.next(batch); ++step) {
      const Var value = loss(batch);
      const double number = value.item();
      if (!std::isfinite(number)) {
        fail("the training of " + options.label + " diverged: its loss is no longer a number",
             "epoch " + std::to_string(epoch + 1),
             "lower the learning rate (stage1.lr, stage2.lr or attack.lr)");
      }
      value.backward();
      if (options.clip > 0) optimizer.clip_gradients(options.clip);
      optimizer.step(schedule.at(step));
      total += number;
      stats.images += batch.images.dim(0);
      if (after_step) after_step(batch.images.dim(0), number);
    }
    stats.loss = total / static_cast<double>(std::max<int64_t>(1, loader.batches()));
    stats.seconds = now() - start;
    stats.seconds_waiting = loader.seconds_waited() - waited;
    if (after_epoch) after_epoch(stats);
  }
}

void run_side_by_side(int count, int at_once, const std::function<void(int)>& job) {
  const int threads = cpu::compute_threads();
  const int workers = std::clamp(at_once > 0 ? at_once : threads, 1, std::max(count, 1));
  if (workers == 1) {
    for (int i = 0; i < count; ++i) job(i);
    return;
  }
  std::atomic<int> next{0};
  std::mutex mutex;
  std::exception_ptr error;
  {
    std::vector<std::jthread> team;
    for (int w = 0; w < workers; ++w) {
      team.emplace_back([&] {
        cpu::set_compute_threads(std::max(1, threads / workers));
        cpu::pin_compute_threads();
        for (int i = next++; i < count; i = next++) {
          try {
            job(i);
          } catch (...) {
            std::lock_guard lock(mutex);
            if (!error) error = std::current_exception();
            next = count;
          }
        }
      });
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace ens
