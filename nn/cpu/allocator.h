// SPDX-License-Identifier: Apache-2.0
// The CPU's memory: a cache of 64-byte aligned buffers, so that steady training neither asks the
// system for memory nor touches fresh pages.
//
// Sizes are rounded up to one of four classes per octave, so a reused buffer is less than 1.25
// times what was asked. What is idle never exceeds a quarter of the machine's memory (4 GiB at
// most): beyond that all idle buffers go back to the system. Thread-safe. With address sanitizer
// every buffer is its own, so that overruns and uses after release are found.
#pragma once

#include <cstddef>
#include <memory>

namespace ens::cpu {

std::shared_ptr<void> allocate(size_t bytes);  // Error if the system has no memory left

// A buffer for the length of a scope.
class Buffer {
 public:
  explicit Buffer(size_t bytes);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
  int size_class_;
};

struct MemoryUse {
  size_t live = 0;  // bytes handed out now
  size_t idle = 0;  // bytes kept for reuse
  size_t peak = 0;  // the most that was ever handed out at once
};
MemoryUse memory_use();
// From now on live and idle buffers together hold at most this: beyond it, no memory is left. 0: no
// limit.
void limit_memory(size_t bytes);
void release_idle_memory();  // back to the system

}  // namespace ens::cpu
