// SPDX-License-Identifier: Apache-2.0
// Kernels of the serving executable (executable.cc): each does its step for all nets in one launch.
//
// Activations are `dtype` (float32, bfloat16, float16) and lie image by image, pixel by pixel,
// channels last; a vector is one pixel. Arithmetic is float32. Those that take a Launch
// support programmatic dependent launch.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "nn/core/backend.h"
#include "nn/core/dtype.h"
#include "nn/cuda/context.h"

namespace ens::cuda {

// Whether grid_dependency_sync() does anything: compute capability 9.0 or newer, of the current
// device and of what the kernels were compiled for.
bool kernels_support_pdl();

// A block of memory for each net, at equal distances. stride 0: one that all nets read.
struct NetMemory {
  void* data = nullptr;
  size_t stride = 0;  // bytes
  std::byte* of(int64_t net) const { return static_cast<std::byte*>(data) + stride * net; }
};

// NetMemory with its type, for kernels.
template <typename T>
struct Each {
  T* data;
  int64_t stride;  // elements
  __device__ T* of(int64_t net) const { return data + stride * net; }
};
template <typename T>
Each<T> each(const NetMemory& m) {
  return {static_cast<T*>(m.data), static_cast<int64_t>(m.stride / sizeof(T))};
}

// A convolution of all nets at one batch size, each with weights [o, kh, kw, c / groups] and bias
// [o], both of `dtype`: y = conv(x) + bias, + z if there is one, then ReLU if `relu`. A linear
// layer is a convolution of one pixel.
//
// In float8 (nn/core/float8.h) the weights are Float8s, divided by the scales of their channels,
// and x is rounded on the way. `scales` holds what the sums of each output channel are multiplied
// by, and behind them what x is multiplied by before: [o + 1] float32 for each net.
struct NetConv {
  Dtype dtype = Dtype::kF32;
  bool tf32 = true;  // for float32
  bool float8 = false;
  int64_t nets = 1, batch = 1;
  int64_t c = 1, h = 1, w = 1;    // of the input
  int64_t o = 1, oh = 1, ow = 1;  // of the output
  int64_t kh = 1, kw = 1;
  ConvSpec spec;
  bool relu = false;
  NetMemory weight, bias, scales, x, z, y;

  int64_t rows() const { return batch * oh * ow; }             // of the output: pixels
  int64_t depth() const { return c / spec.groups * kh * kw; }  // products in one sum
  bool pointwise() const {  // the input's pixels are the rows of the product as they are
    return kh == 1 && kw == 1 && spec.stride == 1 && spec.padding == 0 && spec.groups == 1;
  }
};

constexpr int kNowhere = -(1 << 28);  // a row that no image has, for pixels beyond the last

// x [images, c, pixels] float32 in this order, for all nets the same -> y [batch, pixels, c], zeros
// from `images` on.
void pack_input(Dtype dtype, const float* x, void* y, int64_t images, int64_t batch, int64_t c,
                int64_t pixels, cudaStream_t stream);
// x -> y [nets, images, c, pixels] float32, in this order.
void unpack_output(Dtype dtype, const NetMemory& x, float* y, int64_t nets, int64_t images,
                   int64_t c, int64_t pixels, cudaStream_t stream);
// x -> y [batch, c * pixels] in the order [c, pixels].
void flatten(Dtype dtype, const NetMemory& x, const NetMemory& y, int64_t nets, int64_t batch,
             int64_t c, int64_t pixels, Launch how);
// y = x * scale[c] + shift[c], then ReLU if `relu`. scale, shift: float32 [c] for each net.
void affine(Dtype dtype, const NetMemory& x, const NetMemory& scale, const NetMemory& shift,
            const NetMemory& y, int64_t nets, int64_t numbers, int64_t c, bool relu, Launch how);
void activate(Dtype dtype, UnaryOp op, float a, float b, const NetMemory& x, const NetMemory& y,
              int64_t nets, int64_t numbers, Launch how);
void add(Dtype dtype, const NetMemory& x, const NetMemory& z, const NetMemory& y, int64_t nets,
         int64_t numbers, bool relu, Launch how);

// Windows of kh x kw over maps of h x w pixels.
struct PoolShape {
  int64_t batch, c, h, w, oh, ow;
  int kh, kw, stride, padding;
};
void pool(Dtype dtype, bool maximum, const PoolShape& shape, const NetMemory& x, const NetMemory& y,
          int64_t nets, Launch how);

// ---- tokens [batch, tokens, width] (serve_tokens.cu)
// x [batch, tokens - 1, width] -> y: `first` [width] before x, + positions [tokens, width];
// float32.
void place_tokens(Dtype dtype, const NetMemory& x, const NetMemory& first,
                  const NetMemory& positions, const NetMemory& y, int64_t nets, int64_t batch,
                  int64_t tokens, int64_t width, Launch how);
void first_token(Dtype dtype, const NetMemory& x, const NetMemory& y, int64_t nets, int64_t batch,
                 int64_t tokens, int64_t width, Launch how);
// gamma, beta [width] float32.
void layer_norm(Dtype dtype, const NetMemory& x, const NetMemory& gamma, const NetMemory& beta,
                const NetMemory& y, int64_t nets, int64_t rows, int64_t width, float eps,
                Launch how);
// qkv [batch, tokens, 3 * width] -> y.
void attention(Dtype dtype, const NetMemory& qkv, const NetMemory& y, int64_t nets, int64_t batch,
               int64_t tokens, int heads, int64_t width, Launch how);

// Writes what each sum of a convolution reads as one row: [batch, oh, ow] x [kh, kw, c], zeros
// beyond the edges; for `nets` nets, 1 if x is shared. Without groups.
void im2col(const NetConv& conv, const NetMemory& rows, int64_t nets, cudaStream_t stream);

// A convolution over a map of few pixels as one matrix [oh * ow * o, h * w * c] that takes an
// input image to an output image: from c.weight and c.bias to `matrix` and a bias [oh * ow * o].
void expand_weight(const NetConv& conv, const NetMemory& matrix, const NetMemory& bias,
                   cudaStream_t stream);

// Float8s of one net's x, in the same order. For convolutions in float8.
void round_to_float8(const NetConv& conv, int64_t net, void* rounded, cudaStream_t stream);

// Any convolution, by plain loops: for shapes that no library takes.
void conv_naive(const NetConv& conv, Launch how);

}  // namespace ens::cuda
