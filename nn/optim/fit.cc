// SPDX-License-Identifier: Apache-2.0
#include "nn/optim/fit.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>

#include "base/error.h"
#include "nn/core/backend.h"

namespace ens {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Pending {
  std::function<float()> loss;
  int64_t images;
};

// Steps of one training: run directly, or captured once and run again.
class Steps {
 public:
  Steps(const FitOptions& options, Optimizer& optimizer,
        const std::function<Var(const Batch&)>& loss)
      : options_(options), optimizer_(optimizer), loss_(loss) {}

  // Returns the loss, perhaps to be waited for. A loss that is no number changes nothing on a CPU.
  std::function<float()> run(const Batch& batch, float rate) {
    Backend& be = backend(batch.images.device());
    if (!captures_ || options_.clip > 0 || batch.images.device() == Device{}) {
      optimizer_.prepare();
      const Var value = loss_(batch);
      std::function<float()> number = be.item_later(value.value());
      if (batch.images.device() == Device{} && !std::isfinite(number())) return number;
      value.backward();
      if (options_.clip > 0) optimizer_.clip_gradients(options_.clip);
      optimizer_.step(rate);
      return number;
    }
    // The captured step reads its batch from one place.
    if (!batch_.images.defined() || !(batch_.images.shape() == batch.images.shape())) {
      batch_ = {batch.images.clone(), batch.labels.clone(), batch.first};
      captured_ = nullptr;
      seen_ = 0;
    } else {
      batch_.images.copy_from(batch.images);
      batch_.labels.copy_from(batch.labels);
    }
    optimizer_.set_rate(rate);
    const auto step = [&] {
      optimizer_.prepare();
      const Var value = loss_(batch_);
      value_ = value.value();
      value.backward();
      optimizer_.apply();
    };
    if (captured_) {
      captured_->run();
    } else if (++seen_ <= kWarmUp) {
      step();
    } else if (!(captured_ = be.capture(step))) {
      captures_ = false;
      optimizer_.zero_grad();  // of the attempt
      step();
    }
    return be.item_later(value_);
  }

 private:
  static constexpr int kWarmUp = 3;
  const FitOptions& options_;
  Optimizer& optimizer_;
  const std::function<Var(const Batch&)>& loss_;
  Batch batch_;
  Tensor value_;
  bool captures_ = options_.capture;
  std::unique_ptr<CapturedGraph> captured_;
  int seen_ = 0;
};

}  // namespace

void fit(const FitOptions& options, BatchSource& loader, Optimizer& optimizer,
         const std::function<Var(const Batch&)>& loss,
         const std::function<void(int64_t, double)>& after_step,
         const std::function<void(const EpochStats&)>& after_epoch) {
  Schedule schedule;
  schedule.kind = options.schedule;
  schedule.peak = options.lr;
  schedule.warmup_steps = options.warmup;
  schedule.steps = std::max<int64_t>(1, options.epochs * loader.batches());
  schedule.period = std::max<int64_t>(
      1, options.step_epochs > 0 ? options.step_epochs * loader.batches() : schedule.steps / 3);
  Steps steps(options, optimizer, loss);
  for (int64_t epoch = options.first_epoch; epoch < options.epochs; ++epoch) {
    EpochStats stats;
    stats.epoch = epoch;
    const double start = now(), waited = loader.seconds_waited();
    int64_t step = epoch * loader.batches();
    double total = 0;
    const auto settle = [&](const Pending& p) {
      const double number = p.loss();
      if (!std::isfinite(number)) {
        fail("the training of " + options.label + " diverged: its loss is no longer a number",
             "epoch " + std::to_string(epoch + 1),
             "lower the learning rate (stage1.lr, stage2.lr, attack.decoder.lr or "
             "attack.shadow.lr)");
      }
      total += number;
      stats.images += p.images;
      if (after_step) after_step(p.images, number);
    };
    std::optional<Pending> last;
    loader.start(epoch);
    for (Batch batch; loader.next(batch); ++step) {
      Pending now{steps.run(batch, schedule.at(step)), batch.images.dim(0)};
      if (batch.images.device().type == Device::Type::kCpu) {
        settle(now);
        continue;
      }
      if (last) settle(*last);
      last = std::move(now);
    }
    if (last) settle(*last);
    stats.loss = total / static_cast<double>(std::max<int64_t>(1, loader.batches()));
    stats.seconds = now() - start;
    stats.seconds_waiting = loader.seconds_waited() - waited;
    if (after_epoch) after_epoch(stats);
  }
}

void run_parallel(int count, int parallel, const std::function<void(int)>& job, Device device) {
  if (device.type == Device::Type::kCpu) return run_parallel(count, parallel, job);
  backend(device).synchronize();  // what the jobs share is ready, and no stream still writes it
  run_parallel_on_gpu(count, parallel, job);
}

}  // namespace ens
