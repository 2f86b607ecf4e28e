// Convolutions over nChw8c activations in float32 with kernels of our own, for processors with AVX2
// and FMA but no AVX-512.
//
// Measured on Zen 3 with oneDNN 2.6 (ResNet-18 of width 64, batch 32): oneDNN's AVX2 kernels reach
// a third of the peak, and half of what they do on small maps is multiplying with padding. Here a
// convolution is one matrix product whose left side is never written down: a row is an output
// pixel, and kernel position k takes it to an input pixel.
//
// Six rows by sixteen channels are computed in registers. Rows that are computed together read
// their input at equal distances, in one of two forms into which the input is copied first:
// - large maps, or few images: one image with a frame of zeros; rows are its pixels;
// - small maps: pixels outside, images inside; rows are the same pixel of several images, so that
//   kernel positions that meet padding are left out (a 2x2 map has 16 of 36).
//
// The weight may be kept in bfloat16 (each number rounded to the nearest; arithmetic and
// activations stay float32): half of the memory, and half of what few images have to wait for.
#pragma once

#include <cstdint>
#include <vector>

#include "nn/core/backend.h"

namespace ens::cpu {

class BlockConv {
 public:
  enum class Pass { kForward, kGradInput, kGradWeight };

  // x [B, C, H, W], w [O, C, kh, kw], y [B, O, H', W'] are the convolution's shapes in every pass.
  // `packed`: how pack() and run() keep the weight, kF32 or kBF16.
  BlockConv(Pass pass, const Shape& x, const Shape& w, const Shape& y, const ConvSpec& spec,
            Dtype packed = Dtype::kF32);

  static bool available();  // on this processor
  // Whether it is, and serves these shapes: C and O are multiples of 8, what is written
  // of 16, no groups.
  static bool applies(Pass pass, const Shape& w, const ConvSpec& spec);

  // The form in which the kernels want the weight: as many numbers as it has.
  size_t packed_bytes() const { return static_cast<size_t>(weights()) * size_of(packed_); }
  void pack(const float* w, void* packed) const;  // from plain

  // kForward: in is x, out is y; kGradInput: in is dy, out is dx. Adds bias (of `outputs` numbers,
  // may be null) and sum (as out, may be null or out itself), then ReLU.
  void run(const float* in, const void* packed, const float* bias, const float* sum, bool relu,
           float* out) const;

  // kGradWeight: dw plain.
  void grad_weight(const float* x, const float* dy, float* dw) const;

 private:
  struct Tap {
    int64_t from;  // distance in the copied input, in numbers
    int64_t index;
  };
  struct Row {
    int64_t from, to;  // positions in the copied input and in the output
  };
  struct Group {  // rows with the same taps
    std::vector<Row> rows;
    std::vector<Tap> taps;
  };
  struct Run {  // neighbouring products that belong to one kernel position
    int64_t x, dy;
  };

  int64_t source(int64_t out, int64_t k) const;  // input coordinate, or kNone
  void plan_framed();
  void plan_by_pixel();
  const float* gather(const float* in, int64_t first, int64_t count, int64_t block_begin,
                      int64_t block_end, float* copy) const;
  template <typename W>
  void run_groups(const float* from, int64_t count, int64_t panel_begin, int64_t panel_end,
                  const W* packed, const float* bias, const float* sum, bool relu,
                  float* out) const;
  template <typename W>
  void run_as(const float* in, const W* packed, const float* bias, const float* sum, bool relu,
              float* out) const;
  void unpack(const float* packed, float* w) const;
  int64_t weights() const { return inputs_ * outputs_ * taps_; }

  const Pass pass_;
  const ConvSpec spec_;
  const Dtype packed_;
  int64_t batch_, inputs_, outputs_, taps_;
  int64_t in_[2], out_[2], kernel_[2];  // height, width
  bool framed_;                         // the first of the two forms
  int64_t at_once_;                     // images in the copied input
  int64_t frame_[2][2] = {};            // zeros before and after, by axis
  int64_t positions_ = 0;               // of one block of channels in the copied input
  std::vector<Group> groups_;
  std::vector<std::vector<Run>> runs_;  // by kernel position
  int64_t run_length_ = 0, x_step_ = 0;
};

}  // namespace ens::cpu
