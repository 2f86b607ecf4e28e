// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/allocator.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#ifdef __linux__
#include <malloc.h>
#include <sys/mman.h>
#endif

#include "base/error.h"

#if defined(__SANITIZE_ADDRESS__)
#define ENS_CACHE_MEMORY 0
#else
#define ENS_CACHE_MEMORY 1
#endif

namespace ens::cpu {
namespace {

constexpr size_t kSmallest = 256;  // class 0
constexpr int kClasses = 4 * 50;   // up to 2^58 bytes
constexpr size_t kHugePage = size_t{2} << 20;

// Classes are 256 * {1, 1.25, 1.5, 1.75} * 2^k.
int class_of(size_t bytes) {
  if (bytes <= kSmallest) return 0;
  const size_t last = bytes - 1;                // so that exact sizes stay in their class
  const int octave = std::bit_width(last) - 1;  // 2^octave <= last
  const int quarter = static_cast<int>((last >> (octave - 2)) & 3);
  return 4 * (octave - 8) + quarter + 1;
}

size_t class_bytes(int size_class) {
  return (kSmallest / 4 * static_cast<size_t>(4 + size_class % 4)) << (size_class / 4);
}

class Cache {
 public:
  Cache() {
    const auto pages = sysconf(_SC_PHYS_PAGES);
    const auto page = sysconf(_SC_PAGE_SIZE);
    const size_t total =
        pages > 0 && page > 0 ? static_cast<size_t>(pages) * static_cast<size_t>(page) : 0;
    idle_limit_ = std::clamp<size_t>(total / 4, size_t{64} << 20, size_t{4} << 30);
  }

  // `wanted` bytes of that class will be used.
  void* take(int size_class, size_t wanted) {
    const size_t bytes = class_bytes(size_class);
    {
      std::lock_guard lock(mutex_);
      use_.live += bytes;
      use_.peak = std::max(use_.peak, use_.live);
      auto& list = idle_[static_cast<size_t>(size_class)];
      if (!list.empty()) {
        void* data = list.back();
        list.pop_back();
        use_.idle -= bytes;
        return data;
      }
    }
    void* data = within_limit() ? fresh(bytes, wanted) : nullptr;
    if (!data) {  // what lies idle in other classes may be enough
      release();
      if (within_limit()) data = fresh(bytes, wanted);
    }
    if (!data) {
      std::lock_guard lock(mutex_);
      use_.live -= bytes;
    }
    return data;
  }

  void give(void* data, int size_class) {
    const size_t bytes = class_bytes(size_class);
    bool full = false;
    {
      std::lock_guard lock(mutex_);
      use_.live -= bytes;
      if (ENS_CACHE_MEMORY) {
        idle_[static_cast<size_t>(size_class)].push_back(data);
        use_.idle += bytes;
        full = use_.idle > idle_limit_;
      }
    }
    if (!ENS_CACHE_MEMORY) let_go(data, bytes);
    if (full) release();
  }

  void release() {
    std::vector<std::pair<void*, size_t>> buffers;
    {
      std::lock_guard lock(mutex_);
      for (int c = 0; c < kClasses; ++c) {
        auto& list = idle_[static_cast<size_t>(c)];
        for (void* data : list) buffers.emplace_back(data, class_bytes(c));
        list.clear();
      }
      use_.idle = 0;
    }
    for (const auto& [data, bytes] : buffers) let_go(data, bytes);
  }

  void limit(size_t bytes) {
    std::lock_guard lock(mutex_);
    limit_ = bytes;
  }

  MemoryUse use() {
    std::lock_guard lock(mutex_);
    return use_;
  }

 private:
  bool within_limit() {
    std::lock_guard lock(mutex_);
    return limit_ == 0 || use_.live + use_.idle <= limit_;
  }
  // Large buffers are pages of their own, not malloc's: given back, they leave no gaps.
  static bool mapped(size_t bytes) {
#ifdef __linux__
    return ENS_CACHE_MEMORY && bytes >= 2 * kHugePage;
#else
    return false;
#endif
  }
  static void* fresh(size_t bytes, size_t wanted) {
#ifdef __linux__
    if (mapped(bytes)) {
      void* all = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (all == MAP_FAILED) return nullptr;
      auto* begin = static_cast<std::byte*>(all);
      const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(all) % kHugePage) % kHugePage;
      if (before > 0) munmap(begin, before);
      if (before < kHugePage) munmap(begin + before + bytes, kHugePage - before);
#ifdef MADV_HUGEPAGE
      // A hint: failure does not matter. Whole pages only, or the last would be there whole for
      // little.
      madvise(begin + before, wanted / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
      return begin + before;
    }
#endif
    return std::aligned_alloc(64, bytes);
  }
  static void let_go(void* data, size_t bytes) {
#ifdef __linux__
    if (mapped(bytes)) {
      munmap(data, bytes);
      return;
    }
#endif
    std::free(data);
  }

  std::mutex mutex_;
  std::vector<void*> idle_[kClasses];
  MemoryUse use_;
  size_t idle_limit_;
  size_t limit_ = 0;  // of live and idle; 0: none
};

Cache& cache() {
  static Cache* c = new Cache;  // never destroyed: tensors may outlive main()
  return *c;
}

void* take(size_t bytes, int& size_class) {
  void* data = nullptr;
  if (bytes <= size_t{1} << 50) {
    size_class = class_of(bytes);
    data = cache().take(size_class, bytes);
  }
  if (!data) {
    fail("out of memory: " + std::to_string(bytes >> 20) + " MiB more are not to be had", "cpu",
         "use a smaller batch, a narrower network or fewer of them at once");
  }
  return data;
}

}  // namespace

std::shared_ptr<void> allocate(size_t bytes) {
  int size_class = 0;
  void* data = take(bytes, size_class);
  return {data, [size_class](void* p) { cache().give(p, size_class); }};
}

Buffer::Buffer(size_t bytes) : data_(take(bytes, size_class_)) {}
Buffer::~Buffer() { cache().give(data_, size_class_); }

MemoryUse memory_use() { return cache().use(); }
void limit_memory(size_t bytes) { cache().limit(bytes); }
void release_idle_memory() {
  cache().release();
#ifdef __GLIBC__
  malloc_trim(0);  // free() keeps much of it for itself
#endif
}

}  // namespace ens::cpu
