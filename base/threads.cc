// SPDX-License-Identifier: Apache-2.0
#include "base/threads.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <string>
#include <vector>

#include "base/strings.h"

#ifdef __linux__
#include <sched.h>
#include <sys/auxv.h>
#include <sys/time.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ens {
namespace {

void flush_denormals() {
#if defined(__x86_64__)
  _mm_setcsr(_mm_getcsr() | 0x8040);  // FTZ and DAZ
#endif
}

bool user_binds() {
  return std::getenv("OMP_PROC_BIND") || std::getenv("OMP_PLACES") ||
         std::getenv("GOMP_CPU_AFFINITY");
}

// The processors the process may run on, as they were when first asked (before any pinning), and
// how many pinned threads each has.
struct Processors {
  std::mutex mutex;
  std::vector<int> allowed;
  std::vector<int> users;

  Processors() {
#ifdef __linux__
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
      for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &set)) allowed.push_back(cpu);
      }
    }
#endif
    users.assign(allowed.size(), 0);
  }
};

Processors& processors() {
  static Processors* p = new Processors;
  return *p;
}
// Reads the mask while the program starts, on its first thread.
[[maybe_unused]] const bool kProcessorsRead = (processors(), true);

void bind(const int* cpus, size_t count) {
#ifdef __linux__
  if (count == 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (size_t i = 0; i < count; ++i) CPU_SET(cpus[i], &set);
  sched_setaffinity(0, sizeof set, &set);  // this thread; a refusal only costs speed
#else
  (void)cpus;
  (void)count;
#endif
}

// The slots this thread's team holds.
struct Pinned {
  std::vector<size_t> slots;
  void release() {
    if (slots.empty()) return;
    Processors& p = processors();
    std::lock_guard lock(p.mutex);
    for (size_t s : slots) --p.users[s];
    slots.clear();
  }
  ~Pinned() { release(); }
};
thread_local Pinned pinned;
thread_local int prepared_for = 0;  // team size for which denormals are flushed

}  // namespace

int compute_threads() { return omp_get_max_threads(); }

void set_compute_threads(int n) {
  omp_set_num_threads(std::max(n, 1));
  prepared_for = 0;
  if (!pinned.slots.empty()) pin_compute_threads();
}

void pin_compute_threads() {
  if (user_binds() || omp_in_parallel()) return;
  Processors& p = processors();
  if (p.allowed.empty()) return;
  pinned.release();
  const auto team = static_cast<size_t>(compute_threads());
  {
    std::lock_guard lock(p.mutex);
    for (size_t i = 0; i < team; ++i) {
      const auto least = std::min_element(p.users.begin(), p.users.end()) - p.users.begin();
      ++p.users[static_cast<size_t>(least)];
      pinned.slots.push_back(static_cast<size_t>(least));
    }
  }
  const std::vector<size_t>& slots = pinned.slots;
#pragma omp parallel num_threads(static_cast <int>(team))
  {
    const auto thread = static_cast<size_t>(omp_get_thread_num());
    bind(&p.allowed[slots[thread % slots.size()]], 1);
  }
}

void pin_this_thread(int slot) {
  const Processors& p = processors();
  if (user_binds() || p.allowed.empty()) return;
  bind(&p.allowed[static_cast<size_t>(std::max(slot, 0)) % p.allowed.size()], 1);
}

void unpin_this_thread() {
  if (user_binds()) return;
  pinned.release();
  const Processors& p = processors();
  bind(p.allowed.data(), p.allowed.size());
}

void reexec_with_openmp_settings(char** argv) {
  if (getauxval(AT_BASE) == 0) return;  // started as `ld.so PROGRAM`: /proc/self/exe is ld.so
  bool changed = false;
  const auto set = [&](const char* variable, const std::string& value) {
    changed = setenv(variable, value.c_str(), 0) == 0 || changed;
  };
  if (!std::getenv("GOMP_SPINCOUNT") && !std::getenv("OMP_WAIT_POLICY")) {
    set("GOMP_SPINCOUNT", "10000");  // some ten microseconds
  }
  const int quota = cgroup_processors();
  if (!std::getenv("OMP_NUM_THREADS") && quota > 0 && quota < omp_get_num_procs()) {
    set("OMP_NUM_THREADS", std::to_string(quota));
  }
  if (!changed) return;
  // A profiler's timer survives exec and would end the new program, which has no handler for it
  // yet.
  const itimerval off{};
  for (const int timer : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF})
    setitimer(timer, &off, nullptr);
  execv("/proc/self/exe", argv);  // if it fails, we only go on more slowly
}

int cgroup_processors(const std::filesystem::path& cgroups,
                      const std::filesystem::path& memberships) {
  namespace fs = std::filesystem;
  double least = 0;  // processors; 0: no quota
  const auto consider = [&](double quota, double period) {
    if (quota > 0 && period > 0)
      least = least > 0 ? std::min(least, quota / period) : quota / period;
  };
  // The quota of a group is a file in its folder, and those of all groups around it hold too. In a
  // container the folder may be missing, because what is mounted there begins at the container's
  // own group.
  const auto consider_all = [&](const fs::path& mount, const fs::path& group, bool version_2) {
    for (fs::path folder = group.relative_path();; folder = folder.parent_path()) {
      double quota = 0, period = 0;
      if (version_2) {
        std::ifstream(mount / folder / "cpu.max") >> quota >> period;  // "max 100000" leaves 0
      } else {
        std::ifstream(mount / folder / "cpu.cfs_quota_us") >> quota;  // -1: none
        std::ifstream(mount / folder / "cpu.cfs_period_us") >> period;
      }
      consider(quota, period);
      if (folder.empty()) return;
    }
  };
  std::ifstream lines(memberships);
  for (std::string line; std::getline(lines, line);) {  // "0::/group", "4:cpu,cpuacct:/group"
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const fs::path group = line.substr(second + 1);
    if (controllers.empty()) consider_all(cgroups, group, true);
    const std::vector<std::string> names = split_text(controllers, ',');
    if (std::ranges::find(names, "cpu") != names.end())
      consider_all(cgroups / controllers, group, false);
  }
  return least > 0 ? std::max(1, static_cast<int>(std::lround(least))) : 0;
}

void prepare_threads() {
  const int team = omp_get_max_threads();
  if (prepared_for == team) return;
  flush_denormals();
  if (team > 1 && !omp_in_parallel()) {
#pragma omp parallel
    flush_denormals();
  }
  prepared_for = team;
}

namespace detail {

void parallel_ranges(int64_t n, int64_t grain, RangeFunction function, void* context) {
  if (n <= 0) return;
  const int64_t wanted = std::min<int64_t>(omp_get_max_threads(), n / std::max<int64_t>(grain, 1));
  if (wanted <= 1 || omp_in_parallel()) {
    function(context, 0, n);
    return;
  }
#pragma omp parallel num_threads(static_cast <int>(wanted))
  {
    const int64_t threads = omp_get_num_threads();
    const int64_t thread = omp_get_thread_num();
    const int64_t begin = n * thread / threads;
    const int64_t end = n * (thread + 1) / threads;
    if (begin < end) function(context, begin, end);
  }
}

}  // namespace detail
}  // namespace ens
