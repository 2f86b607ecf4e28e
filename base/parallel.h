// SPDX-License-Identifier: Apache-2.0
// Independent jobs in parallel: trainings of several networks, the tasks of a sweep.
#pragma once

#include <functional>

namespace ens {

// Runs job(0) .. job(count-1), `parallel` of them at a time (0: as many as there are compute
// threads), each on its own share of this thread's compute threads, pinned: independent trainings
// in parallel use a CPU better than one training on all cores. Returns when all are done; rethrows
// the first exception after the running jobs have ended (the rest are not started).
void run_parallel(int count, int parallel, const std::function<void(int)>& job);

// The same for jobs that compute on a GPU, where every thread has a stream of its own: 0 means all
// at once. The calling thread takes part, and at most kHelperSlots other threads work at a time,
// over all calls in the process, so that jobs may call this themselves.
inline constexpr int kHelperSlots = 15;
void run_parallel_on_gpu(int count, int parallel, const std::function<void(int)>& job);

}  // namespace ens
