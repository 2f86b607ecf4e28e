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

// For main(), first of all. GNU OpenMP's threads spin for milliseconds at every barrier, which on a
// machine with other work to do costs most of the time (measured: 86 against 546 images/s). The
// limit can only be set in the environment before the program starts, so this starts it once more,
// unless the user has set GOMP_SPINCOUNT or OMP_WAIT_POLICY.
void reexec_with_bounded_omp_spin(char** argv);

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
