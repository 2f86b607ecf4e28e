#include "nn/cuda/gemm.h"
#include "nn/cuda/kernels.h"
#include "nn/cuda/unfold.h"

namespace ens::cuda {
namespace {

constexpr int64_t kMostChannels = 4, kMostDepth = 128;

// The matrix of windows: [rows][depth], a row for each output pixel, kh * kw * c numbers and zeros.
struct Windows {
  int height, width, channels, out_height, out_width, kernel_width;
  int stride, padding, dilation;
  int used, depth;                   // numbers of a row, and with zeros: a multiple of 8
  int64_t rows;                      // batch * out_height * out_width
  int64_t pixel_step, channel_step;  // between neighbours in x: by the layout
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
  v.pixel_step = last ? x.dim(1) : 1;
  v.channel_step = last ? 1 : x.dim(2) * x.dim(3);
  return v;
}

// A thread for eight neighbours of a row; blockIdx.y, .z: output row and image.
template <typename T>
__global__ void unfold_kernel(const T* x, T* matrix, Windows v, Divisor by_packs,
                              Divisor by_channels, Divisor by_kernel_width, int images) {
  const int packs = v.depth / 8;
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int column = by_packs.quotient(i), first = (i - column * packs) * 8;
  if (column >= v.out_width) return;
  const int top = static_cast<int>(blockIdx.y) * v.stride - v.padding;
  const int left = column * v.stride - v.padding;
  for (int image = static_cast<int>(blockIdx.z); image < images;
       image += static_cast<int>(gridDim.z)) {
    const T* from = x + static_cast<int64_t>(image) * v.height * v.width * v.channels;
    Pack<T, 8> out;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int tap = by_channels.quotient(first + k), channel = first + k - tap * v.channels;
      const int down = by_kernel_width.quotient(tap), across = tap - down * v.kernel_width;
      const int row = top + down * v.dilation, at = left + across * v.dilation;
      const bool inside =
          first + k < v.used && row >= 0 && row < v.height && at >= 0 && at < v.width;
      if (inside) {
        out.v[k] = from[(static_cast<int64_t>(row) * v.width + at) * v.pixel_step +
                        channel * v.channel_step];
      } else {
        store(&out.v[k], 0.0f);
      }
    }
    const int64_t line =
        (static_cast<int64_t>(image) * v.out_height + blockIdx.y) * v.out_width + column;
    *reinterpret_cast<Pack<T, 8>*>(matrix + line * v.depth + first) = out;
  }
}

// [rows][from] to [rows][to]: zeros are added, or columns left out.
template <typename T>
__global__ void resize_kernel(const T* s, T* d, int64_t n, int64_t from, int64_t to) {
  for (int64_t i = first_item(); i < n; i += item_stride()) {
    const int64_t row = i / to, k = i % to;
    if (k < from) {
      d[i] = s[row * from + k];
    } else {
      store(d + i, 0.0f);
    }
  }
}

template <typename T>
std::shared_ptr<void> unfold(Context& c, const Tensor& x, const Windows& v) {
  auto matrix = c.allocate(static_cast<size_t>(v.rows * v.depth) * sizeof(T));
  constexpr unsigned kMostImages = 65535;
  const unsigned items = static_cast<unsigned>(v.out_width * (v.depth / 8));
  const unsigned threads = std::min(items, 256u);
  const dim3 grid((items + threads - 1) / threads, static_cast<unsigned>(v.out_height),
                  std::min(static_cast<unsigned>(x.dim(0)), kMostImages));
  launch(unfold_kernel<T>, grid, threads, 0, c.stream, read<T>(c, x), static_cast<T*>(matrix.get()),
         v, Divisor(v.depth / 8), Divisor(v.channels), Divisor(v.kernel_width),
         static_cast<int>(x.dim(0)));
  return matrix;
}

template <typename T>
void resize(Context& c, const T* s, T* d, int64_t rows, int64_t from, int64_t to) {
  launch(resize_kernel<T>, blocks_for(rows * to), kThreads, 0, c.stream, s, d, rows * to, from, to);
}

}  // namespace

bool unfolds(const Shape& x, const Shape& w, const ConvSpec& spec) {
  const int64_t depth = w[1] * w[2] * w[3];
  return spec.groups == 1 && x[1] <= kMostChannels && depth > 1 && depth <= kMostDepth &&
         x[2] < 65536 && x[3] < 65536;
}

Tensor unfolded_conv2d(Context& c, const Tensor& x, const Tensor& w, const ConvSpec& spec,
                       const Shape& y_shape, bool tf32) {
  Tensor y = Tensor::empty(y_shape, x.dtype(), x.device(), Layout::kChannelsLast);
  const Windows v = windows_of(x, w.shape(), spec, y_shape);
  with_activation(x.dtype(), [&]<typename T>(T) {
    const auto matrix = unfold<T>(c, x, v);
    const auto weight = c.allocate(static_cast<size_t>(w.dim(0) * v.depth) * sizeof(T));
    resize(c, read<T>(c, w), static_cast<T*>(weight.get()), w.dim(0), v.used, v.depth);
    multiply(c, {.transpose_b = true, .m = v.rows, .n = w.dim(0), .k = v.depth, .tf32 = tf32},
             matrix.get(), weight.get(), x.dtype(), write_raw(c, y), x.dtype());
  });
  return y;
}

Tensor unfolded_grad_weight(Context& c, const Tensor& x, const Tensor& dy, const ConvSpec& spec,
                            const Shape& w_shape, bool tf32) {
  Tensor dw = Tensor::empty(w_shape, Dtype::kF32, x.device(), Layout::kChannelsLast);
  const Windows v = windows_of(x, w_shape, spec, dy.shape());
  with_activation(x.dtype(), [&]<typename T>(T) {
    const auto matrix = unfold<T>(c, x, v);
    const auto wide = c.allocate(static_cast<size_t>(w_shape[0] * v.depth) * sizeof(float));
    multiply(c, {.transpose_a = true, .m = w_shape[0], .n = v.depth, .k = v.rows, .tf32 = tf32},
             read_raw(c, dy), matrix.get(), x.dtype(), wide.get(), Dtype::kF32);
    resize(c, static_cast<const float*>(wide.get()), write<float>(c, dw), w_shape[0], v.depth,
           v.used);
  });
  return dw;
}

}  // namespace ens::cuda
