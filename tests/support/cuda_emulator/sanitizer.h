// SPDX-License-Identifier: Apache-2.0
// What the address sanitizer has to be told; nothing without it.
#pragma once

#include <cstddef>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace ens::emulator {

#ifdef __SANITIZE_ADDRESS__
inline void poison(const void* p, size_t bytes) { __asan_poison_memory_region(p, bytes); }
inline void unpoison(const void* p, size_t bytes) { __asan_unpoison_memory_region(p, bytes); }
// Around every change of stacks. `bottom` is the stack that is left or entered.
inline void leave_stack(void** save, const void* bottom, size_t bytes) {
  __sanitizer_start_switch_fiber(save, bottom, bytes);
}
inline void enter_stack(void* save, const void** bottom, size_t* bytes) {
  __sanitizer_finish_switch_fiber(save, bottom, bytes);
}
#else
inline void poison(const void*, size_t) {}
inline void unpoison(const void*, size_t) {}
inline void leave_stack(void**, const void*, size_t) {}
inline void enter_stack(void*, const void**, size_t*) {}
#endif

}  // namespace ens::emulator
