// SPDX-License-Identifier: Apache-2.0
// Kernels: blocks one after another; the threads of a block as fibers that are left only where a
// thread waits for others, so a kernel without barriers is a plain loop.
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <set>

#include "tests/support/cuda_emulator/device.h"
#include "tests/support/cuda_emulator/emulator.h"
#include "tests/support/cuda_emulator/sanitizer.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace ens::emulator {
namespace {

constexpr size_t kStackBytes = 256 << 10;

alignas(1024) unsigned char shared_memory[kMostSharedBytes];  // dynamic, of the block that runs

struct Fiber {
  boost::context::stack_context stack;
  boost::context::fiber context;  // its own, while it is not running
  boost::context::fiber out;      // where it returns to, while it is
  void* fake_stack = nullptr;     // the sanitizer's
  int thread = -1;                // which it runs; -1: none
  void* bottom() const { return static_cast<char*>(stack.sp) - stack.size; }
};

// Threads of one warp that exchange values under one mask. Two generations of results: a thread may
// be one exchange ahead of those that have not read the last one.
struct Group {
  unsigned mask = 0, arrived = 0;
  int generation = 0;
  Exchange results[2];
  std::vector<Fiber*> waiting;
};

// A thread's copies to shared memory: groups that are committed, and the one that is being made.
struct Copy {
  void* to;
  const void* from;
  size_t bytes, zeros;
};
struct Copies {
  std::deque<std::vector<Copy>> committed;
  std::vector<Copy> open;
};

struct Grid {
  const Work* thread = nullptr;
  const Label* label = nullptr;
  int threads = 0;  // of a block

  // The block that is running.
  int started = 0, live = 0;
  int first = 0;  // order of the threads: from here on, in one direction or the other
  bool forward = true;
  std::vector<unsigned> returned;  // lanes, by warp
  std::vector<std::deque<Group>> groups;
  std::map<int, Copies> copies;  // by thread
  std::vector<Fiber*> at_barrier, runnable;
  int votes[2] = {};
  int barriers = 0;
  Asked* asks = nullptr;         // of run_until_wait(), by block and thread
  const Asked* asked = nullptr;  // of run_grid()
  uint64_t block_number = 0;
  std::vector<bool> waited;  // threads, for the kernel before theirs
  bool all_waited = false;   // of the grid
  std::set<const void*> waiting_kernels;

  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> idle;
  Fiber* current = nullptr;
  void* fake_stack = nullptr;  // of the thread that runs the grid
  const void* bottom = nullptr;
  size_t bytes = 0;
};

Grid& grid() {
  static Grid* g = new Grid;
  return *g;
}

[[noreturn]] void die_in_kernel(const std::string& what) {
  die("kernel " + describe(*grid().label) + ", block (" + std::to_string(blockIdx.x) + ", " +
      std::to_string(blockIdx.y) + ", " + std::to_string(blockIdx.z) + "), thread (" +
      std::to_string(threadIdx.x) + ", " + std::to_string(threadIdx.y) + ", " +
      std::to_string(threadIdx.z) + "): " + what);
}

// A thread that run_until_wait() needs no longer.
struct Waits {};

// Of what the thread has asked to copy, as it is now.
uint64_t digest_of_copies() {
  Grid& g = grid();
  const Copies& copies = g.copies[g.current->thread];
  uint64_t digest = 14695981039346656037u;  // FNV-1a
  const auto add = [&](const std::vector<Copy>& group) {
    for (const Copy& copy : group) {
      const auto* bytes = static_cast<const unsigned char*>(copy.from);
      for (size_t i = 0; i < copy.bytes - copy.zeros; ++i) {
        digest = (digest ^ bytes[i]) * 1099511628211u;
      }
    }
  };
  std::ranges::for_each(copies.committed, add);
  add(copies.open);
  return digest;
}

void set_thread(int t) {
  const auto u = static_cast<unsigned>(t);
  threadIdx = {u % blockDim.x, u / blockDim.x % blockDim.y, u / (blockDim.x * blockDim.y)};
}

// Back to the loop in run_block().
void suspend() {
  Grid& g = grid();
  Fiber* f = g.current;
  leave_stack(&f->fake_stack, g.bottom, g.bytes);
  f->out = std::move(f->out).resume();
  enter_stack(f->fake_stack, &g.bottom, &g.bytes);
}

// A fiber runs threads that have not started yet, until none is left.
boost::context::fiber body(Fiber* f, boost::context::fiber&& out) {
  Grid& g = grid();
  f->out = std::move(out);
  enter_stack(nullptr, &g.bottom, &g.bytes);
  for (;;) {
    while (g.started < g.threads) {
      const int i = g.started++;
      f->thread = (g.first + (g.forward ? i : g.threads - i)) % g.threads;
      set_thread(f->thread);
      try {
        (*g.thread)();
      } catch (const Waits&) {
      }
      g.returned[static_cast<size_t>(f->thread / 32)] |= 1u << (f->thread % 32);
      --g.live;
    }
    f->thread = -1;
    suspend();
  }
}

void resume(Fiber* f) {
  Grid& g = grid();
  g.current = f;
  if (f->thread >= 0) set_thread(f->thread);
  leave_stack(&g.fake_stack, f->bottom(), f->stack.size);
  f->context = std::move(f->context).resume();
  enter_stack(g.fake_stack, nullptr, nullptr);
  if (f->thread < 0) g.idle.push_back(f);
}

Fiber* idle_fiber() {
  Grid& g = grid();
  if (g.idle.empty()) {
    auto f = std::make_unique<Fiber>();
    boost::context::protected_fixedsize_stack allocator(kStackBytes);
    f->stack = allocator.allocate();
    f->context = boost::context::fiber(
        std::allocator_arg, boost::context::preallocated(f->stack.sp, f->stack.size, f->stack),
        allocator, [p = f.get()](boost::context::fiber&& out) { return body(p, std::move(out)); });
    g.idle.push_back(f.get());
    g.fibers.push_back(std::move(f));
  }
  Fiber* f = g.idle.back();
  g.idle.pop_back();
  return f;
}

void run_block() {
  Grid& g = grid();
  g.started = 0;
  g.live = g.threads;
  g.first = static_cast<int>(random_below(static_cast<uint64_t>(g.threads)));
  g.forward = random_below(2) == 0;
  const auto warps = static_cast<size_t>((g.threads + 31) / 32);
  g.returned.assign(warps, 0);
  g.groups.assign(warps, {});
  g.copies.clear();
  g.votes[0] = g.votes[1] = 0;
  g.waited.assign(static_cast<size_t>(g.threads), false);
  for (;;) {
    if (!g.runnable.empty()) {
      Fiber* f = g.runnable.back();
      g.runnable.pop_back();
      resume(f);
    } else if (g.started < g.threads) {
      resume(idle_fiber());
    } else if (g.live == 0) {
      return;
    } else if (static_cast<int>(g.at_barrier.size()) == g.live) {
      ++g.barriers;
      g.votes[g.barriers % 2] = 0;  // for the barrier that comes next
      std::swap(g.runnable, g.at_barrier);
      if (random_below(2)) std::reverse(g.runnable.begin(), g.runnable.end());
    } else {
      die_in_kernel("the threads wait for one another: some at __syncthreads(), others not");
    }
  }
}

int lane() { return grid().current->thread % 32; }

unsigned lanes_of_warp(int warp) {
  const int lanes = std::min(32, grid().threads - 32 * warp);
  return lanes == 32 ? ~0u : (1u << lanes) - 1;
}

}  // namespace

std::string describe(const Label& label) {
  if (!label.kernel) return label.text;
  Dl_info info;
  if (dladdr(label.kernel, &info) && info.dli_sname) {
    int status = 0;
    char* name = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
    const std::string text = name ? name : info.dli_sname;
    std::free(name);
    return text;
  }
#ifdef __SANITIZE_ADDRESS__
  char text[512] = "";
  __sanitizer_symbolize_pc(const_cast<void*>(label.kernel), "%f", text, sizeof text);
  return text;
#else
  char address[32];
  std::snprintf(address, sizeof address, "at %p", label.kernel);
  return address;  // addr2line -f knows its name
#endif
}

int wait_at_barrier(bool vote) {
  Grid& g = grid();
  if (!g.current) die("__syncthreads() outside a kernel");
  const int generation = g.barriers % 2;
  g.votes[generation] += vote;
  g.at_barrier.push_back(g.current);
  suspend();
  return g.votes[generation];
}

const Exchange& exchange(unsigned mask, uint64_t value) {
  Grid& g = grid();
  if (!g.current) die("a warp function outside a kernel");
  const int thread = g.current->thread, warp = thread / 32;
  const unsigned me = 1u << lane();
  if (!(mask & me)) die_in_kernel("a warp function whose mask leaves out the calling thread");
  if (mask & g.returned[static_cast<size_t>(warp)]) {
    die_in_kernel("a warp function waits for threads that have returned");
  }
  std::deque<Group>& groups = g.groups[static_cast<size_t>(warp)];
  auto group = std::ranges::find(groups, mask, &Group::mask);
  if (group == groups.end()) {
    groups.emplace_back().mask = mask;
    group = groups.end() - 1;
  }
  Group* own = &*group;  // a deque's elements stay where they are
  Exchange& results = own->results[own->generation % 2];
  if (own->arrived == 0) {
    std::memset(results.values, 0xff, sizeof results.values);
    results.present = 0;
  }
  results.values[lane()] = value;
  results.present |= me;
  own->arrived |= me;
  if (own->arrived == (mask & lanes_of_warp(warp))) {
    own->arrived = 0;
    ++own->generation;
    g.runnable.insert(g.runnable.end(), own->waiting.begin(), own->waiting.end());
    own->waiting.clear();
  } else {
    own->waiting.push_back(g.current);
    suspend();
  }
  return results;
}

int current_lane() { return lane(); }

void grid_dependency_sync() {
  Grid& g = grid();
  if (!g.current) die("grid_dependency_sync() outside a kernel");
  const auto thread = static_cast<size_t>(g.current->thread);
  const size_t number = g.block_number * static_cast<size_t>(g.threads) + thread;
  if (g.asks) {
    (*g.asks)[number] = digest_of_copies();
    throw Waits();
  }
  if (!g.asked->empty() && (*g.asked)[number] != digest_of_copies()) {
    die_in_kernel("has asked before grid_dependency_sync() for what the kernel before it writes");
  }
  g.waited[thread] = true;
}

unsigned char* dynamic_shared() {
  if (!grid().current) die("dynamic shared memory outside a kernel");
  return shared_memory;
}

void copy_later(void* shared, const void* global, size_t bytes, size_t zeros) {
  if ((bytes != 4 && bytes != 8 && bytes != 16) || zeros > bytes ||
      reinterpret_cast<uintptr_t>(shared) % bytes || reinterpret_cast<uintptr_t>(global) % bytes) {
    die_in_kernel("__pipeline_memcpy_async: not 4, 8 or 16 aligned bytes");
  }
  grid().copies[grid().current->thread].open.push_back({shared, global, bytes, zeros});
}

void commit_copies() {
  Copies& c = grid().copies[grid().current->thread];
  c.committed.push_back(std::move(c.open));
  c.open.clear();
}

void wait_for_copies(size_t left) {
  Copies& c = grid().copies[grid().current->thread];
  while (c.committed.size() > left) {
    for (const Copy& copy : c.committed.front()) {
      std::memcpy(copy.to, copy.from, copy.bytes - copy.zeros);
      std::memset(static_cast<char*>(copy.to) + copy.bytes - copy.zeros, 0, copy.zeros);
    }
    c.committed.pop_front();
  }
}

void run_grid(const Label& name, dim3 blocks, dim3 block, size_t shared_bytes, const Work& thread,
              const Asked& asked) {
  Grid& g = grid();
  g.asked = &asked;
  g.thread = &thread;
  g.label = &name;
  g.threads = static_cast<int>(block.x * block.y * block.z);
  blockDim = block;
  gridDim = blocks;
  poison(shared_memory + shared_bytes, sizeof shared_memory - shared_bytes);
  const uint64_t count = uint64_t{blocks.x} * blocks.y * blocks.z;
  const uint64_t first = random_below(count);
  const bool forward = random_below(2) == 0;
  g.all_waited = true;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t b = (first + (forward ? i : count - i)) % count;
    blockIdx = {static_cast<unsigned>(b % blocks.x), static_cast<unsigned>(b / blocks.x % blocks.y),
                static_cast<unsigned>(b / blocks.x / blocks.y)};
    g.block_number = b;
    run_block();
    g.all_waited = g.all_waited && std::ranges::find(g.waited, false) == g.waited.end();
  }
  if (g.all_waited) g.waiting_kernels.insert(name.kernel);
  g.current = nullptr;
  unpoison(shared_memory, sizeof shared_memory);
}

Asked run_until_wait(const Label& name, dim3 blocks, dim3 block, const Work& thread) {
  Grid& g = grid();
  Asked asks(uint64_t{blocks.x} * blocks.y * blocks.z * block.x * block.y * block.z);
  g.asks = &asks;
  run_grid(name, blocks, block, kMostSharedBytes, thread);
  g.asks = nullptr;
  return asks;
}

void check_dependent(const Label& name, const void* before) {
  const Grid& g = grid();
  const std::string who = "kernel " + describe(name) + " was launched as a dependent, but ";
  if (!g.all_waited) die(who + "not all of its threads call grid_dependency_sync()");
  if (!g.waiting_kernels.contains(before)) die(who + "what it comes behind does not wait itself");
}

}  // namespace ens::emulator
