// SPDX-License-Identifier: Apache-2.0
#include "nn/cuda/gemm.h"
#include "nn/cuda/im2col.h"
#include "nn/cuda/kernels.h"

namespace ens::cuda {
namespace {

constexpr int64_t kMostChannels = 4, kMostDepth = 128;
constexpr int64_t kMostNumbers = 1 << 26;  // of the matrix

// The matrix of windows: [rows][depth], a row for each output pixel, kh * kw * c elements and
// zeros.
struct Windows {
  int height, width, channels, out_height, out_width, kernel_width;
  int stride, padding, dilation;
  int used, depth;               // elements of a row, and with zeros: a multiple of 8
  int64_t rows;                  // batch * out_height * out_width
  int pixel_step, channel_step;  // between neighbours in x: by the layout
};

Windows windows_of(const Tensor& x, const Shape& w, const ConvSpec& spec, const Shape& y) {
  Windows v{};
  v.height = static_cast<int>(x.dim(2));
  v.width = static_cast<int>(x.dim(3));
  v.channels = static_cast<int>(x.dim(1));
  v.out_height = static_cast<int>(y[2]);
  v.out_width = static_cast<int>(y[3]);
  v.kernel_width = static_cast<int>(w[3]);
  v.stride = spec.stride;
  v.padding = spec.padding;
  v.dilation = spec.dilation;
  v.used = static_cast<int>(w[1] * w[2] * w[3]);
  v.depth = (v.used + 7) / 8 * 8;
  v.rows = y[0] * y[2] * y[3];
  const bool last = x.layout() == Layout::kChannelsLast;
  v.pixel_step = last ? v.channels : 1;
  v.channel_step = last ? 1 : v.height * v.width;
  return v;
}

// A thread for each row of the matrix.
template <typename T>
__global__ void im2col_kernel(const T* x, T* matrix, Windows v, int64_t x_image) {
  const int64_t line = thread_index();
  if (line >= v.rows) return;
  const int64_t image = line / (v.out_height * v.out_width);
  const int place = static_cast<int>(line - image * (v.out_height * v.out_width));
  const int top = place / v.out_width * v.stride - v.padding;
  const int left = place % v.out_width * v.stride - v.padding;
  const T* from = x + image * x_image;
  int row = top, column = left, channel = 0, used = 0;
  for (int first = 0; first < v.depth; first += 8) {
    Vec<T, 8> out;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const bool inside =
          used++ < v.used && row >= 0 && row < v.height && column >= 0 && column < v.width;
      if (inside) {
        out.v[k] = from[(row * v.width + column) * v.pixel_step + channel * v.channel_step];
      } else {
        store(&out.v[k], 0.0f);
      }
      if (++channel < v.channels) continue;
      channel = 0;
      column += v.dilation;
      if (column < left + v.kernel_width * v.dilation) continue;
      column = left;
      row += v.dilation;
    }
    *reinterpret_cast<Vec<T, 8>*>(matrix + line * v.depth + first) = out;
  }
}

// [rows][from] to [rows][to]: zeros are added, or columns left out.
template <typename T>
__global__ void resize_kernel(const T* s, T* d, int64_t n, int64_t from, int64_t to) {
  for (int64_t i = thread_index(); i < n; i += item_stride()) {
    const int64_t row = i / to, k = i % to;
    if (k < from) {
      d[i] = s[row * from + k];
    } else {
      store(d + i, 0.0f);
    }
  }
}

template <typename T>
std::shared_ptr<void> im2col(Context& c, const Tensor& x, const Windows& v) {
  auto matrix = c.allocate(static_cast<size_t>(v.rows * v.depth) * sizeof(T));
  // Blocks of 128, as there are as many threads as pixels only.
  constexpr int kBlock = 128;
  launch(im2col_kernel<T>, dim3(static_cast<unsigned>((v.rows + kBlock - 1) / kBlock)), kBlock, 0,
         c.stream, read<T>(c, x), static_cast<T*>(matrix.get()), v, x.numel() / x.dim(0));
  return matrix;
}

template <typename T>
void resize(Context& c, const T* s, T* d, int64_t rows, int64_t from, int64_t to) {
  launch(resize_kernel<T>, blocks_for(rows * to), kThreads, 0, c.stream, s, d, rows * to, from, to);
}

}  // namespace

bool uses_im2col(const Shape& x, const Shape& w, const Shape& y, const ConvSpec& spec) {
  const int64_t depth = w[1] * w[2] * w[3];
  return spec.groups == 1 && x[1] <= kMostChannels && depth > 1 && depth <= kMostDepth &&
         x[2] * x[3] < (1 << 28) && y[0] * y[2] * y[3] * depth <= kMostNumbers;
}

Tensor im2col_conv2d(Context& c, const Tensor& x, const Tensor& w, const ConvSpec& spec,
                     const Shape& y_shape, bool tf32) {
  Tensor y = Tensor::empty(y_shape, x.dtype(), x.device(), Layout::kChannelsLast);
  const Windows v = windows_of(x, w.shape(), spec, y_shape);
  with_activation(x.dtype(), [&]<typename T>(T) {
    const auto matrix = im2col<T>(c, x, v);
    const auto weight = c.allocate(static_cast<size_t>(w.dim(0) * v.depth) * sizeof(T));
    resize(c, read<T>(c, w), static_cast<T*>(weight.get()), w.dim(0), v.used, v.depth);
    multiply(c, {.transpose_b = true, .m = v.rows, .n = w.dim(0), .k = v.depth, .tf32 = tf32},
             matrix.get(), weight.get(), x.dtype(), write_raw(c, y), x.dtype());
  });
  return y;
}

Tensor im2col_grad_weight(Context& c, const Tensor& x, const Tensor& dy, const ConvSpec& spec,
                          const Shape& w_shape, bool tf32) {
  Tensor dw = Tensor::empty(w_shape, Dtype::kF32, x.device(), Layout::kChannelsLast);
  const Windows v = windows_of(x, w_shape, spec, dy.shape());
  with_activation(x.dtype(), [&]<typename T>(T) {
    const auto matrix = im2col<T>(c, x, v);
    const auto wide = c.allocate(static_cast<size_t>(w_shape[0] * v.depth) * sizeof(float));
    multiply(c, {.transpose_a = true, .m = w_shape[0], .n = v.depth, .k = v.rows, .tf32 = tf32},
             read_raw(c, dy), matrix.get(), x.dtype(), wide.get(), Dtype::kF32);
    resize(c, static_cast<const float*>(wide.get()), write<float>(c, dw), w_shape[0], v.depth,
           v.used);
  });
  return dw;
}

}  // namespace ens::cuda
