// SPDX-License-Identifier: Apache-2.0
// Convolutions over activations in blocks of channels (nChw16c with AVX-512, nChw8c with AVX2),
// with kernels of our own (nn/cpu/block_kernels), in float32 and, where the processor has the
// instructions (AVX512_BF16), in bfloat16 with sums in float32.
//
// A convolution is one matrix product, whose left matrix is never written down:
//
//             tap 0       tap 1             tap k                 panel 0   panel 1
//   row 0   [ C inputs ][ C inputs ] ... [ C inputs ]     tap 0  [ C x P ] [ C x P ] ...
//   row 1   [ C inputs ][ C inputs ] ... [ C inputs ]  x  tap 1  [ C x P ] [ C x P ] ...
//    ...                                                   ...
//
//   row    an output pixel of one image
//   tap    a kernel position; it takes a row to an input pixel, whose C channels are multiplied
//   panel  P output channels, one or two vectors, summed together in registers
//   group  rows that have the same taps; other taps meet only padding
//   piece  the part of the work whose input is copied and multiplied in one go, on one thread:
//          some images, or a strip (some rows of tiles) of one large image
//
// Rows that are computed together read their input at equal distances. The input is copied into
// one of three forms that allow that:
// - framed (large maps, or few images): one image with a frame of zeros for the padding. Its rows
//   are its output pixels, and there is one group.
// - by pixel (small maps): pixels outside, images inside. The rows of a group are one output pixel
//   of all images, so that taps that meet padding are left out (of 36 on a 2x2 map, 16 remain).
// - Winograd's F(2x2, 3x3) (3x3 kernels, stride 1, maps from 16 pixels up): 4x4 input pixels become
//   a tile of 16 positions. Each position is a product of its own, whose rows are tiles: 16
//   products where the other forms have 36.
//
// The weight may be kept in bfloat16 with float32 activations (each element rounded to the nearest;
// arithmetic stays float32): half of the memory, and half of what a small batch waits for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "nn/core/backend.h"
#include "nn/cpu/block_kernels.h"

namespace ens::cpu {

class BlockConv {
 public:
  enum class Pass { kForward, kGradInput, kGradWeight };

  // x [B, C, H, W], w [O, C, kh, kw], y [B, O, H', W'] are the convolution's shapes in every pass.
  // dtype: of activations and arithmetic; `packed`: how pack() and run() keep the weight, kF32 or
  // kBF16. Only where why_not() is null.
  BlockConv(Pass pass, const Shape& x, const Shape& w, const Shape& y, const ConvSpec& spec,
            Dtype dtype, Dtype packed);

  static bool available(Dtype dtype, Dtype packed);  // on this processor
  // Why it does not compute such a convolution on this processor; null if it does.
  static const char* why_not(const Shape& w, const ConvSpec& spec, Dtype dtype, Dtype packed);
  static Layout layout();  // of the activations

  // The form in which the kernels want the weight.
  size_t packed_bytes() const { return static_cast<size_t>(weights()) * size_of(packed_); }
  void pack(const float* w, void* packed) const;  // from plain

  // kForward: in is x, out is y; kGradInput: in is dy, out is dx. Adds bias ([outputs], may be
  // null) and sum (as out, may be null or out itself), then ReLU. Activations of dtype.
  void run(const void* in, const void* packed, const float* bias, const void* sum, bool relu,
           void* out) const;

  // kGradWeight: dw plain, float32.
  void grad_weight(const void* x, const void* dy, float* dw) const;

 private:
  enum class Form { kFramed, kByPixel, kWinograd };
  struct Tap {
    int64_t from;  // distance in the copied input, in elements
    int64_t index;
  };
  struct Row {
    int64_t from, to;  // positions in the copied input and in the output
  };
  struct Group {  // rows with the same taps
    std::vector<Row> rows;
    std::vector<Tap> taps;
  };
  struct Piece {                  // see above
    int64_t first, count;         // images
    int64_t tile_row, tile_rows;  // Winograd: the strip; else unused
  };
  using Bytes = std::byte;

  Form choose() const;
  int64_t source(int64_t out, int64_t k) const;  // input coordinate, or kNone
  void plan_framed();
  void plan_by_pixel();
  void plan_winograd();
  Piece piece(int64_t index) const;
  static WinogradMap strip_of(WinogradMap map, const Piece& piece);
  int64_t cells(const Piece& piece) const;
  const Bytes* gather(const Bytes* in, const Piece& piece, int64_t block_begin, int64_t block_end,
                      Bytes* copy) const;
  void gather_frame(const Bytes* in, const Bytes* second, Bytes* to) const;
  void gather_pixels(const Bytes* from, int64_t count, size_t image, int64_t pixels,
                     Bytes* to) const;
  void multiply(const Bytes* from, const Piece& piece, int64_t panel_begin, int64_t panel_end,
                const Bytes* packed, const float* bias, const Bytes* sum, bool relu,
                Bytes* out) const;
  void multiply_group(const Group& group, const Bytes* from, int64_t count, int64_t panel,
                      const Bytes* packed, const float* bias, const Bytes* sum, bool relu,
                      Bytes* out) const;
  void from_tiles(const float* tiles, const Piece& piece, int64_t block_begin, int64_t block_end,
                  const float* bias, const Bytes* sum, bool relu, Bytes* out) const;
  void add_framed(const Bytes* x, const Bytes* dy, const Piece& piece, Bytes* x_copy,
                  Bytes* dy_copy, float* sums) const;
  void add_tiles(const Bytes* x, const Bytes* dy, const Piece& piece, Bytes* x_copy, Bytes* dy_copy,
                 float* sums) const;
  void add_by_pixel(const Bytes* x, const Bytes* dy, const Piece& piece, Bytes* x_copy,
                    Bytes* dy_copy, float* sums) const;
  void add_block(const Bytes* from, const Bytes* dy, int64_t block, int64_t tap_begin,
                 int64_t tap_end, int64_t length, int64_t dy_stride, float* sums) const;
  template <typename F>
  void for_chunks(F f) const;
  void unpack(const float* sums, float* w) const;

  int64_t weight_at(int64_t panel, int64_t tap) const;
  int64_t panel() const { return vectors_ * lanes_; }  // output channels computed together
  int64_t weights() const { return inputs_ * outputs_ * taps_; }
  // Of so many elements of the activations.
  size_t bytes(int64_t elements) const { return static_cast<size_t>(elements) * size_; }
  // Of the copied input of one piece.
  size_t copy_bytes() const;

  const Pass pass_;
  const ConvSpec spec_;
  const Dtype packed_;
  const BlockKernels& kernels_;
  const size_t size_;  // bytes of an element of the activations
  const int64_t lanes_;
  int64_t cell_;  // elements of one position of a block in the copied input
  int64_t batch_, inputs_, outputs_, taps_, vectors_;
  int64_t in_[2], out_[2], kernel_[2];  // height, width
  Form form_;
  int64_t at_once_;              // images in a piece
  int64_t pieces_, strips_ = 1;  // of all the work; of one image
  int64_t frame_[2][2] = {};     // zeros before and after, by axis
  int64_t positions_ = 0;        // of one block of channels in the copied input
  int64_t results_ = 0;          // positions of one block in what multiply() writes
  WinogradMap tiles_in_ = {}, tiles_out_ = {};
  int64_t tiles_ = 0, tile_rows_ = 0;  // of one image in a piece
  std::vector<Group> groups_;
  std::vector<std::vector<BlockRun>> runs_;  // by kernel position
  int64_t run_length_ = 0, x_step_ = 0;
};

}  // namespace ens::cpu
