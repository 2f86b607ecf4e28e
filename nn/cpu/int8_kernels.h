// SPDX-License-Identifier: Apache-2.0
// Register kernels of exact products of 8-bit integers (nn/cpu/int8_product.cc). Internal.
//
// Operands are packed as cells of 32 bits that hold `depth` consecutive terms of a sum: four bytes
// where the processor multiplies bytes (AVX-512 VNNI: unsigned by signed), two int16 elsewhere.
// Nothing saturates: the AVX2 instruction that multiplies bytes would, and is not used.
#pragma once

#include <cstdint>

namespace ens::cpu {

inline constexpr int kInt8Columns = 32, kMostInt8Rows = 14, kInt8Chunk = 8;

// What kInt8Columns columns read: for each tap, `cells` cells that are `stride` apart. Of them the
// columns c read neighbours from at[c / kInt8Chunk] on, in chunks; the two chunks that a vector of
// 16 holds follow each other.
struct Int8Panel {
  const uint32_t* base;
  int64_t at[kInt8Columns / kInt8Chunk];
  int64_t taps, cells, stride;
  const int64_t* tap;  // where each begins
};

// out[r * out_stride + c] = start[r] + the sum over the cells i of the panel, tap by tap, of the
// dot products of rows[i * R + r] and the cell that column c reads: R rows, kInt8Columns columns.
using Int8Multiply = void (*)(const Int8Panel& panel, const uint32_t* rows, const int32_t* start,
                              int32_t* out, int64_t out_stride);

struct Int8Kernels {
  int rows;   // of a tile, at most
  int depth;  // terms of a cell: 4 or 2
  // [0]: by number of rows less one, signed rows (unsigned columns if depth is 4). [1]: unsigned
  // rows and signed columns; the same where depth is 2.
  Int8Multiply multiply[2][kMostInt8Rows];
};

const Int8Kernels& int8_kernels();  // of this processor

}  // namespace ens::cpu
