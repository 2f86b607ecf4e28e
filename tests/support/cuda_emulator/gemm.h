// SPDX-License-Identifier: Apache-2.0
// One matrix product as cuBLAS and cublasLt describe it.
#pragma once

#include <library_types.h>

#include <cstddef>
#include <cstdint>

#include "tests/support/cuda_emulator/libraries.h"

namespace ens::emulator {

struct Operand {
  void* data = nullptr;
  cudaDataType_t type = CUDA_R_32F;
  int64_t ld = 0;            // elements from one column to the next; of one row, if row_major
  int64_t batch_stride = 0;  // elements
  bool row_major = false;

  int64_t at(int64_t row, int64_t column) const {
    return row_major ? row * ld + column : column * ld + row;
  }
  size_t reach(int64_t rows, int64_t columns) const {  // bytes
    return static_cast<size_t>(at(rows - 1, columns - 1) + 1) * bytes_of(type);
  }
};

// d = alpha * op(a) op(b) + beta * c, then + bias by row, then ReLU.
struct Gemm {
  int64_t m = 0, n = 0, k = 0, batches = 1;
  bool transpose_a = false, transpose_b = false, tf32 = false, relu = false;
  float alpha = 1, beta = 0;
  Operand a, b, c, d;
  const void* bias = nullptr;
  cudaDataType_t bias_type = CUDA_R_32F;
  int64_t bias_stride = 0;  // elements from one batch to the next
  int device = 0;
};

// Computes it, in work that a stream executes. `call` is named where an operand does not lie in
// memory of the device.
void gemm_now(const Gemm& gemm, const char* call);

}  // namespace ens::emulator
