// SPDX-License-Identifier: Apache-2.0
// What the emulated cuBLAS and cuDNN share: numbers of any type as float, operands that are checked
// against the memory they lie in, scratch memory that must not be shared.
#pragma once

#include <cuda_runtime.h>
#include <library_types.h>

#include <cstddef>
#include <cstdint>
#include <functional>

#include "tests/support/cuda_emulator/emulator.h"

namespace ens::emulator {

size_t bytes_of(cudaDataType_t type);  // dies for a type that is not emulated
float load(const void* base, cudaDataType_t type, int64_t index);
void store(void* base, cudaDataType_t type, int64_t index, float value);
float to_tf32(float value);  // what a tensor core sees of a float32

// Gives a library call's work to its stream. The workspace is stamped first, in an operation of its
// own, and looked at again before the work: a call that runs beside it with the same workspace is
// found out. Statuses other than success are for the caller to translate.
cudaError_t enqueue_call(cudaStream_t stream, const char* call, void* workspace, size_t bytes,
                         Work work);

}  // namespace ens::emulator
