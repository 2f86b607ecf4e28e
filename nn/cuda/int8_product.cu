// Exact products of 8-bit integers.
#include "nn/core/int8_product.h"
#include "nn/cuda/cuda_backend.h"
#include "nn/cuda/kernels.h"

namespace ens::cuda {
namespace {

// A convolution, or a matrix product as one with a kernel of 1x1 over an image of one row, whose
// pixels are the columns of b.
struct Geometry {
  int images, groups, channels, height, width;  // channels of a group
  int rows;                                     // output channels of a group
  int kernel_height, kernel_width, out_height, out_width;
  int stride, padding, dilation;
};

// Where the elements of a factor lie: w by output channel, channel and tap; x by image, channel
// (of all groups) and pixel.
struct Steps {
  int64_t outer, channel, inner;
};

__device__ inline int element(const void* p, int64_t i, bool is_unsigned) {
  return is_unsigned ? static_cast<const uint8_t*>(p)[i] : static_cast<const int8_t*>(p)[i];
}

// A thread for each output.
__global__ void direct_kernel(Geometry g, const void* w, Steps ws, bool w_unsigned, const void* x,
                              Steps xs, bool x_unsigned, int32_t* y, int64_t outputs) {
  for (int64_t i = thread_index(); i < outputs; i += item_stride()) {
    const int column = static_cast<int>(i % g.out_width);
    const int row = static_cast<int>(i / g.out_width % g.out_height);
    const int64_t plane = i / g.out_width / g.out_height;
    const int64_t image = plane / (g.groups * g.rows), out = plane % (g.groups * g.rows);
    const int64_t first = image * xs.outer + out / g.rows * g.channels * xs.channel;
    int32_t sum = 0;
    for (int kr = 0; kr < g.kernel_height; ++kr) {
      const int r = row * g.stride - g.padding + kr * g.dilation;
      if (r < 0 || r >= g.height) continue;
      for (int kc = 0; kc < g.kernel_width; ++kc) {
        const int c = column * g.stride - g.padding + kc * g.dilation;
        if (c < 0 || c >= g.width) continue;
        const int64_t from = first + (static_cast<int64_t>(r) * g.width + c) * xs.inner;
        const int64_t tap = out * ws.outer + (kr * g.kernel_width + kc) * ws.inner;
        for (int k = 0; k < g.channels; ++k) {
          sum += element(x, from + k * xs.channel, x_unsigned) *
                 element(w, tap + k * ws.channel, w_unsigned);
        }
      }
    }
    y[i] = sum;
  }
}

}  // namespace

Tensor CudaBackend::conv2d_s8(const Tensor& x, const Tensor& w, const ConvSpec& spec) {
  const Shape shape = conv2d_s8_shape(x, w, spec);
  Tensor y = Tensor::empty(shape, Dtype::kI32, device());
  if (y.numel() == 0) return y;
  const Tensor source = x.plain();
  Context& c = context(device_);
  const auto size = [](int64_t n) { return static_cast<int>(n); };
  const Geometry g{size(x.dim(0)), spec.groups,    size(w.dim(1)),
                   size(x.dim(2)), size(x.dim(3)), size(w.dim(0) / spec.groups),
                   size(w.dim(2)), size(w.dim(3)), size(shape[2]),
                   size(shape[3]), spec.stride,    spec.padding,
                   spec.dilation};
  const int64_t map = x.dim(2) * x.dim(3), taps = w.dim(2) * w.dim(3);
  launch(direct_kernel, blocks_for(y.numel()), kThreads, 0, c.stream, g, read_raw(c, w),
         Steps{w.dim(1) * taps, taps, 1}, false, read_raw(c, source), Steps{x.dim(1) * map, map, 1},
         x.dtype() == Dtype::kU8, write<int32_t>(c, y), y.numel());
  return y;
}

Tensor CudaBackend::gemm_s8(bool transpose_a, bool transpose_b, const Tensor& a, const Tensor& b) {
  const Shape shape = gemm_s8_shape(transpose_a, transpose_b, a, b);
  Tensor y = Tensor::empty(shape, Dtype::kI32, device());
  if (y.numel() == 0) return y;
  Context& c = context(device_);
  const int64_t depth = a.dim(transpose_a ? 0 : 1);
  const auto size = [](int64_t n) { return static_cast<int>(n); };
  const Geometry g{1, 1, size(depth), 1, size(shape[1]), size(shape[0]), 1, 1, 1, size(shape[1]), 1,
                   0, 1};
  launch(direct_kernel, blocks_for(y.numel()), kThreads, 0, c.stream, g, read_raw(c, a),
         transpose_a ? Steps{1, shape[0], 1} : Steps{depth, 1, 1}, a.dtype() == Dtype::kU8,
         read_raw(c, b), transpose_b ? Steps{0, 1, depth} : Steps{0, shape[1], 1}, false,
         write<int32_t>(c, y), y.numel());
  return y;
}

}  // namespace ens::cuda
