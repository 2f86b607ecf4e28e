// SPDX-License-Identifier: Apache-2.0
// Device memory: address ranges that are closed while the host's code runs.
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>

#include "tests/support/cuda_emulator/emulator.h"
#include "tests/support/cuda_emulator/sanitizer.h"

namespace ens::emulator {
namespace {

constexpr size_t kAddresses = size_t{256} << 30;   // of one device
constexpr size_t kQuarantine = size_t{256} << 20;  // dead bytes whose addresses are not used again
constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr int kMaxDevices = 16;

struct Arena {
  char* start = nullptr;
  size_t used = 0;    // addresses handed out, ever
  size_t opened = 0;  // nesting of Open
  size_t live = 0;    // bytes reserved now
  size_t quarantined = 0;
  std::deque<Memory*> dead;               // oldest first
  std::multimap<size_t, char*> reusable;  // rooms by size
  bool peers[kMaxDevices] = {};
};

struct Memories {
  Arena arenas[kMaxDevices];
  std::map<char*, std::unique_ptr<Memory>> all;  // by start; live and dead
  const Label* work = nullptr;
};

struct sigaction previous_action;

Memories& memories();

size_t room_for(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage + kPage; }

// Async-signal-unsafe on purpose: the process is lost anyway, and the report is the point.
void explain(const void* address) {
  Memories& m = memories();
  const std::string where = m.work ? describe(*m.work) : "the host's code";
  auto* a = static_cast<char*>(const_cast<void*>(address));
  for (int d = 0; d < device_count(); ++d) {
    const Arena& arena = m.arenas[d];
    if (!arena.start || a < arena.start || a >= arena.start + kAddresses) continue;
    const auto after = m.all.upper_bound(a);
    const Memory* memory = after == m.all.begin() ? nullptr : std::prev(after)->second.get();
    std::fprintf(stderr, "CUDA emulator: %s touched memory of device %d", where.c_str(), d);
    if (memory && memory->device == d && a >= memory->start) {
      std::fprintf(stderr, ": byte %zu of an allocation of %zu bytes%s",
                   static_cast<size_t>(a - memory->start), memory->bytes,
                   memory->live ? "" : ", which is not allocated at this point of the stream");
    }
    std::fprintf(stderr, "\n");
    return;
  }
  if (m.work) std::fprintf(stderr, "CUDA emulator: fault at %p in %s\n", address, where.c_str());
}

void on_fault(int signal, siginfo_t* info, void* context) {
  explain(info->si_addr);
  if (previous_action.sa_flags & SA_SIGINFO && previous_action.sa_sigaction) {
    previous_action.sa_sigaction(signal, info, context);
  }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

Memories& memories() {
  static Memories* m = [] {
    auto* made = new Memories;  // never destroyed: memory may outlive main()
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &previous_action);
    return made;
  }();
  return *m;
}

Arena& arena_of(int device) {
  Arena& arena = memories().arenas[device];
  if (!arena.start) {
    void* p =
        mmap(nullptr, kAddresses, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) die("no address space for a device's memory");
    // Opening and closing costs by the page, and is most of what a run costs: large ones.
    madvise(p, kAddresses, MADV_HUGEPAGE);
    const size_t beyond = reinterpret_cast<uintptr_t>(p) % kHugePage;
    arena.start = static_cast<char*>(p) + (kHugePage - beyond) % kHugePage;
  }
  return arena;
}

void protect(Arena& arena, int how) {
  mprotect(arena.start, (arena.used + kHugePage - 1) / kHugePage * kHugePage, how);
}

void open(int device) {
  Arena& arena = arena_of(device);
  if (arena.opened++ == 0) protect(arena, PROT_READ | PROT_WRITE);
}
void close(int device) {
  Arena& arena = arena_of(device);
  if (--arena.opened == 0) protect(arena, PROT_NONE);
}

void let_go_of_oldest(Arena& arena) {
  Memory* oldest = arena.dead.front();
  arena.dead.pop_front();
  const size_t room = room_for(oldest->bytes);
  arena.quarantined -= room;
  arena.reusable.emplace(room, oldest->start);
  memories().all.erase(oldest->start);
}

}  // namespace

void on_sanitizer_report(const void* address) {
  if (address) explain(address);
}

Memory* reserve(int device, size_t bytes) {
  Arena& arena = arena_of(device);
  if (arena.live + bytes > kDeviceMemory) return nullptr;
  const size_t room = room_for(bytes);
  char* start = nullptr;
  if (const auto found = arena.reusable.find(room); found != arena.reusable.end()) {
    start = found->second;
    arena.reusable.erase(found);
  } else {
    if (arena.used + room > kAddresses - kHugePage) die("a device's addresses are used up");
    start = arena.start + arena.used;
    arena.used += room;
    if (arena.opened) protect(arena, PROT_READ | PROT_WRITE);
  }
  poison(start, room);
  arena.live += bytes;
  auto memory = std::make_unique<Memory>(Memory{start, bytes, device, false});
  return (memories().all[start] = std::move(memory)).get();
}

void make_live(Memory& memory) {
  const Open open_now(memory.device);
  unpoison(memory.start, memory.bytes);
  memory.live = true;
  std::memset(memory.start, 0xff, memory.bytes);
}

void make_dead(Memory& memory) {
  Arena& arena = arena_of(memory.device);
  {
    const Open open_now(memory.device);
    unpoison(memory.start, memory.bytes);
    madvise(memory.start, room_for(memory.bytes), MADV_DONTNEED);
    poison(memory.start, room_for(memory.bytes));
  }
  memory.live = false;
  arena.live -= memory.bytes;
  arena.quarantined += room_for(memory.bytes);
  arena.dead.push_back(&memory);
  while (arena.quarantined > kQuarantine) let_go_of_oldest(arena);
}

Memory* pin(void* start, size_t bytes) {
  auto* s = static_cast<char*>(start);
  return (memories().all[s] = std::make_unique<Memory>(Memory{s, bytes, kHost, true})).get();
}

void unpin(void* start) { memories().all.erase(static_cast<char*>(start)); }

Memory* find_memory(const void* address) {
  auto* a = static_cast<char*>(const_cast<void*>(address));
  auto& all = memories().all;
  const auto after = all.upper_bound(a);
  if (after == all.begin()) return nullptr;
  Memory* memory = std::prev(after)->second.get();
  return a < memory->start + std::max<size_t>(memory->bytes, 1) ? memory : nullptr;
}

size_t memory_in_use(int device) { return arena_of(device).live; }

void check_access(const void* address, size_t bytes, int device, const char* what) {
  if (bytes == 0) return;
  const Memory* memory = find_memory(address);
  const auto complain = [&](const std::string& problem) {
    die(std::string(what) + ": " + problem);
  };
  if (!memory) {
    for (int d = 0; d < device_count(); ++d) {
      const Arena& arena = arena_of(d);
      auto* a = static_cast<const char*>(address);
      if (a >= arena.start && a < arena.start + kAddresses) {
        complain("an address of device " + std::to_string(d) + " that is not allocated");
      }
    }
    if (device != kHost) complain("an address that is neither the device's nor pinned");
    return;
  }
  if (device == kHost && memory->device != kHost) complain("memory of a device, used by the host");
  if (memory->device != kHost && device != kHost && memory->device != device &&
      !peer_allowed(device, memory->device)) {
    complain("memory of device " + std::to_string(memory->device) + " used by device " +
             std::to_string(device));
  }
  if (!memory->live) complain("memory that is not allocated at this point of the stream");
  const size_t offset = static_cast<size_t>(static_cast<const char*>(address) - memory->start);
  if (offset + bytes > memory->bytes) {
    complain("bytes " + std::to_string(offset) + " to " + std::to_string(offset + bytes) +
             " of an allocation of " + std::to_string(memory->bytes));
  }
}

bool belongs_to_device(const void* address, int device) {
  if (const Memory* m = find_memory(address); m && m->device == kHost) return true;
  auto* a = static_cast<const char*>(address);
  for (int d = 0; d < device_count(); ++d) {
    const Arena& arena = arena_of(d);
    if (a >= arena.start && a < arena.start + kAddresses)
      return d == device || peer_allowed(device, d);
  }
  return false;
}

void allow_peer(int device, int peer) { memories().arenas[device].peers[peer] = true; }
bool peer_allowed(int device, int peer) { return memories().arenas[device].peers[peer]; }

Open::Open(int device) : device_(device) {
  if (device == kHost) return;
  open(device);
  for (int d = 0; d < device_count(); ++d) {
    if (d != device && peer_allowed(device, d)) open(d);
  }
}

Open::~Open() {
  if (device_ == kHost) return;
  close(device_);
  for (int d = 0; d < device_count(); ++d) {
    if (d != device_ && peer_allowed(device_, d)) close(d);
  }
}

void set_current_work(const Label* label) { memories().work = label; }

}  // namespace ens::emulator
