// SPDX-License-Identifier: Apache-2.0
// The innermost loops of BlockConv, in a version for each instruction set. Internal.
//
// Activations lie in blocks of `lanes` channels: [B, C / lanes, H, W, lanes]. A panel is one or two
// vectors of output channels, computed together for up to `rows` output pixels in registers.
// Offsets and distances count elements, not bytes.
#pragma once

#include <cstdint>

#include "nn/core/dtype.h"

namespace ens::cpu {

struct BlockProduct {  // what the rows of one call have in common
  const void* from;
  int64_t blocks, block_stride;
  const int64_t* tap_from;    // kernel position -> distance in `from`
  const int64_t* tap_weight;  // kernel position -> distance in `weight`
  int64_t taps;
  const void* weight;
  const float* bias;  // of the panel, or null
  bool relu;
  int64_t out_stride;  // from one block of output channels to the next
};

// Rows at from[r] by one panel; results go to out[r], with sum[r] added unless sum is null.
using Multiply = void (*)(const BlockProduct&, const int64_t* from, void* const* out,
                          const void* const* sum);

struct BlockRun {  // neighbouring products that belong to one kernel position
  int64_t x, dy;
};
// dw [lanes input channels][panel] += the products of `count` runs of `length` cells: a cell is
// `depth` pixels (neighbours in the sum) of a block, its elements channel by channel.
using MultiplyTransposed = void (*)(const void* x, const void* dy, const BlockRun* runs,
                                    int64_t count, int64_t length, int64_t x_step,
                                    int64_t dy_stride, float* dw);

// Winograd's F(2x2, 3x3): 4x4 pixels of the input, two apart, become 16 positions of a tile, whose
// products become 2x2 pixels of the output (Lavin and Gray 2016, "Fast Algorithms for Convolutional
// Neural Networks", section 4.1).
struct WinogradMap {
  int64_t height, width;  // of the pixels read (input) or written (output)
  int64_t padding;        // of the input
  int64_t tile_columns, first_tile_row, tile_rows;  // some rows of tiles, each of all columns
  int64_t stride;                                   // from one position of the tiles to the next
};
// One block of one image; pixels outside are zeros. Of an input, or of an output's gradient.
using WinogradTiles = void (*)(const WinogradMap&, const void* image, void* tiles);
// The same back; adds bias (of this block, may be null) and sum (as image, may be null).
using WinogradOutput = void (*)(const WinogradMap&, const float* tiles, const float* bias,
                                const void* sum, bool relu, void* image);

struct BlockKernels {
  static constexpr int kMostRows = 14;

  int lanes;
  int rows;        // at most computed together
  int depth;       // input channels multiplied by one instruction: their weights are neighbours
  bool alternate;  // the weights of a panel's two vectors alternate
  // By vectors - 1 and rows - 1.
  Multiply multiply[2][kMostRows];
  Multiply multiply_to_float[2][kMostRows];  // results in float32, for Winograd's tiles
  MultiplyTransposed multiply_transposed[2];
  WinogradTiles winograd_input;
  WinogradOutput winograd_output;
  // As cells for multiply_transposed: tiles of the first image of each cell, then of the second
  // (with depth 2).
  WinogradTiles winograd_input_cells[2];
  WinogradTiles winograd_gradient_cells[2];
  // to[pixel][lane][2] = a and b (zeros if null), for depth 2; null where depth is 1.
  void (*interleave)(const void* a, const void* b, int64_t pixels, void* to, int64_t to_step);
};

// For activations (and arithmetic) of one type and weights of another; null if this processor has
// no instructions for them.
const BlockKernels* block_kernels(Dtype activations, Dtype weights);

}  // namespace ens::cpu
