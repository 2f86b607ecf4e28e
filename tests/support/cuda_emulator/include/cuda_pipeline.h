// SPDX-License-Identifier: Apache-2.0
// Copies to shared memory that finish when the thread waits for them, not before.
#pragma once

#include <cstddef>

#include "tests/support/cuda_emulator/device.h"

inline void __pipeline_memcpy_async(void* shared, const void* global, size_t bytes,
                                    size_t zeros = 0) {
  ens::emulator::copy_later(shared, global, bytes, zeros);
}
inline void __pipeline_commit() { ens::emulator::commit_copies(); }
inline void __pipeline_wait_prior(size_t left) { ens::emulator::wait_for_copies(left); }
