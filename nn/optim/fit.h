// The training loop, written once: classifiers, shadow networks and decoders all use it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

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
  float clip = 0;           // > 0: limit the gradients' norm
  // The loss asks only the batch's device for work, always the same, and does not look at results
  // or draw numbers on the host: on a GPU the step may then be recorded once and replayed.
  bool replay = false;
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
void fit(const FitOptions& options, Loader& loader, Optimizer& optimizer,
         const std::function<Var(const Batch&)>& loss,
         const std::function<void(int64_t images, double loss)>& after_step,
         const std::function<void(const EpochStats&)>& after_epoch);

// Runs job(0) .. job(count-1), `at_once` of them side by side (0: as many as there are compute
// threads), each on its own share of this thread's compute threads: independent trainings side by
// side use a CPU better than one training on all cores. On a GPU (`device`) each has a stream of
// its own, and 0 means all; there the calling thread takes part, and no more than 15 others do at a
// time, over all calls, so that jobs may use this themselves. Returns when all are done; rethrows
// the first exception after the running jobs have ended (the rest are not started).
void run_side_by_side(int count, int at_once, const std::function<void(int)>& job,
                      Device device = {});

}  // namespace ens
