// SPDX-License-Identifier: Apache-2.0
// Convolutions over maps of a few pixels, such as the 2x2 ones at the end of a ResNet on 32x32
// images. There most products of a direct convolution are with padding, and oneDNN's kernels are
// far from their best.
//
// Where (almost) every output pixel depends on every input pixel, the convolution is one dense
// matrix product: each image is a row of pixels * channels elements, in the order of its layout,
// and the kernel is expanded to a matrix [inputs, outputs] in that order. For 3x3 kernels on 2x2
// maps that matrix has 16/9 of the kernel's elements.
#pragma once

#include <vector>

#include "nn/core/backend.h"

namespace ens::cpu {

class DenseSmallMap {
 public:
  DenseSmallMap(const Shape& x, const Shape& w, const Shape& y, const ConvSpec& spec);
  explicit DenseSmallMap(const ConvProblem& p) : DenseSmallMap(p.x, p.w, p.y, p.spec) {}

  // Why it does not compute this convolution; null if it does.
  static const char* why_not(const ConvProblem& problem);
  // Whether a compiled network uses it for small batches, too: its matrix is no larger than w.
  static bool serves_every_batch(const ConvProblem& problem);

  int64_t inputs() const { return inputs_; }  // pixels
  int64_t outputs() const { return outputs_; }
  // The kernel position, row-major, that takes input pixel p to output pixel q, or -1.
  int64_t tap(int64_t p, int64_t q) const { return taps_[static_cast<size_t>(p * outputs_ + q)]; }

  // As the verbs of Backend, whose gemm() they use.
  Tensor forward(Backend& backend, const Tensor& x, const Tensor& w, const Tensor& bias) const;
  Tensor grad_input(Backend& backend, const Tensor& dy, const Tensor& w) const;
  Tensor grad_weight(Backend& backend, const Tensor& x, const Tensor& dy) const;

 private:
  int64_t find_tap(int64_t p, int64_t q) const;
  // Calls f(tile, its first input channel, its first output channel) for tiles that make up the
  // kernel, none of them crossing a block of `lanes` output channels; on several threads.
  template <typename F>
  void for_tiles(int64_t lanes, F&& f) const;
  Tensor expand(const Tensor& w, Dtype dtype, Layout x_layout, Layout y_layout) const;

  Shape x_, w_, y_;
  ConvSpec spec_;
  int64_t inputs_, outputs_;
  std::vector<int64_t> taps_;
};

}  // namespace ens::cpu
