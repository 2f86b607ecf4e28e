// SPDX-License-Identifier: Apache-2.0
// Which threads and processors the CPU backend computes on.
//
// Work inside one verb is split over the calling thread's OpenMP team. Several threads may compute
// at once, each with a team of its own: two trainings side by side on two cores are best run as two
// std::threads that each call set_compute_threads(1) and pin_compute_threads().
//
// Compute threads, and the threads that call verbs, flush denormal numbers to zero on x86 (MXCSR's
// FTZ and DAZ): networks make many of them late in training, and each costs a hundred cycles.
#pragma once

#include <cstdint>
#include <filesystem>

namespace ens {

int compute_threads();            // size of this thread's team
void set_compute_threads(int n);  // of this thread, from now on; n >= 1

// Binds every thread of this thread's team to a processor of its own, the least used of those the
// process may run on; undone when this thread ends. Without it both threads of a team often share
// one core. Does nothing if the user set OMP_PROC_BIND, OMP_PLACES or GOMP_CPU_AFFINITY. Threads
// started later by a pinned thread inherit its one processor: they should pin or unpin themselves.
void pin_compute_threads();

void pin_this_thread(int slot);  // to the slot-th allowed processor, modulo their number
void unpin_this_thread();        // back to every processor the process may run on

// For main(), first of all: settings of OpenMP that can only be made in the environment before the
// program starts. If one is missing, the program is started once more with it.
// - GNU OpenMP's threads spin for milliseconds at every barrier, which on a machine with other work
// to do costs most of
//   the time (measured: 86 against 546 images/s). Bounded, unless the user set GOMP_SPINCOUNT or
//   OMP_WAIT_POLICY.
// - OMP_NUM_THREADS, unless the user set it, is the processor quota of a container: with more
// threads than its quota
//   pays for, all of them stand still for part of every period.
void reexec_with_openmp_settings(char** argv);

// The processors that the quota of this process's cgroup (version 1 or 2), or of one around it,
// pays for, rounded to the nearest number, at least 1; 0 without a quota. The arguments are for
// tests.
int cgroup_processors(const std::filesystem::path& cgroups = "/sys/fs/cgroup",
                      const std::filesystem::path& memberships = "/proc/self/cgroup");

// For the CPU backend: flushes denormals in this thread and its team; cheap after the first call.
void prepare_threads();

namespace detail {
using RangeFunction = void (*)(void* context, int64_t begin, int64_t end);
void parallel_ranges(int64_t n, int64_t grain, RangeFunction function, void* context);
}  // namespace detail

// Calls f(begin, end) for disjoint ranges that make up [0, n), on the team when each thread gets at
// least `grain` items. f must not throw.
template <typename F>
void parallel_for(int64_t n, int64_t grain, F&& f) {
  detail::parallel_ranges(
      n, grain, [](void* c, int64_t begin, int64_t end) { (*static_cast<F*>(c))(begin, end); }, &f);
}

}  // namespace ens
