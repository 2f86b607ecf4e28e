// SPDX-License-Identifier: Apache-2.0
// The training loop, written once: classifiers, shadow networks and decoders all use it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/parallel.h"
#include "nn/data/loader.h"
#include "nn/optim/optim.h"
#include "nn/optim/schedule.h"

namespace ens {

struct FitOptions {
  std::string label;  // for error messages: "net 2", "decoder"
  int64_t epochs = 1;
  int64_t first_epoch = 0;  // > 0 when resuming
  Schedule::Kind schedule = Schedule::Kind::kOneCycle;
  float lr = 0.1f;
  int64_t step_epochs = 0;  // Schedule::kStep halves the rate this often; 0: a third of the epochs
  int64_t warmup = 4000;    // Schedule::kNoam, in steps
  float clip = 0;           // > 0: limit the gradients' norm
  // The loss asks only the batch's device for work, always the same, and does not look at results
  // or draw numbers on the host: on a GPU the step may then be captured once and run again.
  bool capture = false;
};

struct EpochStats {
  int64_t epoch = 0;           // 0-based
  double loss = 0;             // mean over the epoch's batches
  double seconds = 0;          // whole epoch
  double seconds_waiting = 0;  // of these, for data
  int64_t images = 0;
};

// For every epoch and batch: loss(batch), backward, one optimiser step at the scheduled rate. On a
// GPU nobody waits for a step's loss before the next one is under way: after_step, and the check,
// come one step late there. after_step(images, loss) and after_epoch(stats) may be empty; an
// exception from any of them ends the training. Error when the loss is not finite ("diverged").
void fit(const FitOptions& options, BatchSource& loader, Optimizer& optimizer,
         const std::function<Var(const Batch&)>& loss,
         const std::function<void(int64_t images, double loss)>& after_step,
         const std::function<void(const EpochStats&)>& after_epoch);

// run_parallel() or, for a GPU, run_parallel_on_gpu() (base/parallel.h), after `device` has
// finished what the jobs may read.
void run_parallel(int count, int parallel, const std::function<void(int)>& job, Device device);

}  // namespace ens
