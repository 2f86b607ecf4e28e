// Register kernels of exact products of 8-bit integers (nn/cpu/int8_product.cc). Internal.
//
// Operands are packed as cells of 32 bits that hold `depth` consecutive terms of a sum: four bytes
// where the processor multiplies bytes (AVX-512 VNNI: unsigned by signed), two int16 elsewhere.
// Nothing saturates: the AVX2 instruction that multiplies bytes would, and is not used.
#pragma once

#include <cstdint>

namespace ens::cpu {

// out[r * out_stride + c] = start[r] + the sum over the cells i of the dot products of
// rows[i * R + r] and columns[i * kInt8Columns + c], for R rows and kInt8Columns columns.
using Int8Multiply = void (*)(int64_t cells, const uint32_t* rows, const uint32_t* columns,
                              const int32_t* start, int32_t* out, int64_t out_stride);

inline constexpr int kInt8Columns = 32, kMostInt8Rows = 14;

struct Int8Kernels {
  int rows;   // of a tile, at most
  int depth;  // terms of a cell: 4 or 2
  // [0]: by number of rows less one, signed rows (unsigned columns if depth is 4). [1]: unsigned
  // rows and signed columns; the same where depth is 2.
  Int8Multiply multiply[2][kMostInt8Rows];
};

const Int8Kernels& int8_kernels();  // of this processor

}  // namespace ens::cpu
