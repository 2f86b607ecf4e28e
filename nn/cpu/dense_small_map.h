// Convolutions over maps of a few pixels, such as the 2x2 ones at the end of a ResNet on 32x32
// images: there most products of a direct convolution are with padding, and oneDNN's kernels are
// far from their best.
//
// When (almost) every output pixel depends on every input pixel, the convolution is one dense
// matrix product: each image is a row of pixels * channels numbers, in whatever order its layout
// has them, and the kernel is spread out to a [inputs, outputs] matrix in that order.
#pragma once

#include <vector>

#include "nn/core/backend.h"

namespace ens::cpu {

class DenseSmallMap {
 public:
  DenseSmallMap(const Shape& x, const Shape& w, const Shape& y, const ConvSpec& spec);
  bool applies() const { return applies_; }

  // As the verbs of Backend, whose gemm() they use.
  Tensor forward(Backend& backend, const Tensor& x, const Tensor& w, const Tensor& bias) const;
  Tensor grad_input(Backend& backend, const Tensor& dy, const Tensor& w) const;
  Tensor grad_weight(Backend& backend, const Tensor& x, const Tensor& dy) const;

 private:
  int64_t find_tap(int64_t p, int64_t q) const;
  // The kernel position that takes input pixel p to output pixel q, or -1.
  int64_t tap(int64_t p, int64_t q) const { return taps_[static_cast<size_t>(p * pixels_ + q)]; }
  // Calls f(tile, its first input channel, its first output channel) for tiles that make up the
  // kernel, none of them crossing a block of `lanes` output channels; on several threads.
  template <typename F>
  void for_tiles(int64_t lanes, F&& f) const;
  Tensor spread(const Tensor& w, Dtype dtype, Layout x_layout, Layout y_layout) const;

  Shape x_, w_, y_;
  ConvSpec spec_;
  bool applies_ = false;
  int64_t pixels_ = 0;  // of the output
  std::vector<int64_t> taps_;
};

}  // namespace ens::cpu
