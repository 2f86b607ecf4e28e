// SPDX-License-Identifier: Apache-2.0
// Pooling, over channels-last images: a thread for each pack of neighbouring channels at one place.
#include <limits>

#include "nn/cuda/cuda_backend.h"
#include "nn/cuda/kernels.h"

namespace ens::cuda {
namespace {

// Sizes in packs of channels.
struct Plane {
  int64_t images;
  int height, width, out_height, out_width;
  int packs;  // of one pixel
  PoolSpec spec;
};

struct Range {
  int begin, end;
};
// Input rows (columns) of a window, without the padding.
__device__ Range window(int out, const PoolSpec& s, int size) {
  const int begin = out * s.stride - s.padding, end = begin + s.kernel;
  return {begin > 0 ? begin : 0, end < size ? end : size};
}
// Windows that hold input row (column) `in`.
__device__ Range windows_with(int in, const PoolSpec& s, int out_size) {
  const int first = in + s.padding - s.kernel + 1;
  const int begin = first > 0 ? (first + s.stride - 1) / s.stride : 0;
  const int end = (in + s.padding) / s.stride + 1;
  return {begin, end < out_size ? end : out_size};
}

// Blocks along y stand for images, along x for an image's places of `height` x `width` pixels.
dim3 grid_of(const Plane& p, int height, int width) {
  const int64_t places = int64_t{height} * width * p.packs;
  if (places > std::numeric_limits<int32_t>::max())
    fail("images are too large for pooling", "CUDA");
  return dim3(static_cast<unsigned>((places + kThreads - 1) / kThreads),
              static_cast<unsigned>(std::min<int64_t>(p.images, 65535)));
}

// A thread's place.
struct Place {
  int pack, row, column;
  bool inside;
  __device__ Place(const Plane& p, int height, int width) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    const auto packs = static_cast<unsigned>(p.packs), across = static_cast<unsigned>(width);
    const unsigned pixel = i / packs;
    pack = static_cast<int>(i - pixel * packs);
    row = static_cast<int>(pixel / across);
    column = static_cast<int>(pixel % across);
    inside = row < height;
  }
};

// taps: which element of its window each maximum was, 0 .. kernel * kernel - 1. May be null.
template <typename T, int N, typename Tap>
__global__ void max_kernel(const T* x, T* y, Tap* taps, Plane p) {
  const Place at(p, p.out_height, p.out_width);
  if (!at.inside) return;
  const Range rows = window(at.row, p.spec, p.height);
  const Range columns = window(at.column, p.spec, p.width);
  const int top = at.row * p.spec.stride - p.spec.padding;
  const int left = at.column * p.spec.stride - p.spec.padding;
  for (int64_t image = blockIdx.y; image < p.images; image += gridDim.y) {
    const auto* in = reinterpret_cast<const Vec<T, N>*>(x) + image * p.height * p.width * p.packs;
    Vec<T, N> best{};
    Vec<Tap, N> tap{};
    bool first = true;
    for (int h = rows.begin; h < rows.end; ++h) {
      for (int w = columns.begin; w < columns.end; ++w) {
        const Vec<T, N> v = in[(h * p.width + w) * p.packs + at.pack];
        const auto here = static_cast<Tap>((h - top) * p.spec.kernel + w - left);
#pragma unroll
        for (int k = 0; k < N; ++k) {
          const float mine = load(v.v[k]), most = load(best.v[k]);
          if (first || mine > most || (mine != mine && most == most)) {  // NaN wins, and stays
            best.v[k] = v.v[k];
            tap.v[k] = here;
          }
        }
        first = false;
      }
    }
    const int64_t o =
        ((image * p.out_height + at.row) * p.out_width + at.column) * p.packs + at.pack;
    reinterpret_cast<Vec<T, N>*>(y)[o] = best;
    if (taps) reinterpret_cast<Vec<Tap, N>*>(taps)[o] = tap;
  }
}

// Each input sums the outputs that took it.
template <typename T, int N, typename Tap>
__global__ void max_grad_kernel(const T* dy, const Tap* taps, T* dx, Plane p) {
  const Place at(p, p.height, p.width);
  if (!at.inside) return;
  const Range rows = windows_with(at.row, p.spec, p.out_height);
  const Range columns = windows_with(at.column, p.spec, p.out_width);
  for (int64_t image = blockIdx.y; image < p.images; image += gridDim.y) {
    const int64_t first = image * p.out_height * p.out_width * p.packs;
    float sum[N] = {};
    for (int oh = rows.begin; oh < rows.end; ++oh) {
      for (int ow = columns.begin; ow < columns.end; ++ow) {
        const auto tap =
            static_cast<Tap>((at.row - oh * p.spec.stride + p.spec.padding) * p.spec.kernel +
                             at.column - ow * p.spec.stride + p.spec.padding);
        const int64_t o = first + (oh * p.out_width + ow) * p.packs + at.pack;
        const Vec<T, N> g = reinterpret_cast<const Vec<T, N>*>(dy)[o];
        const Vec<Tap, N> took = reinterpret_cast<const Vec<Tap, N>*>(taps)[o];
#pragma unroll
        for (int k = 0; k < N; ++k) {
          if (took.v[k] == tap) sum[k] += load(g.v[k]);
        }
      }
    }
    Vec<T, N> out;
#pragma unroll
    for (int k = 0; k < N; ++k) store(&out.v[k], sum[k]);
    reinterpret_cast<Vec<T, N>*>(
        dx)[((image * p.height + at.row) * p.width + at.column) * p.packs + at.pack] = out;
  }
}

__device__ inline float share(const Range& rows, const Range& columns) {
  return 1.0f / static_cast<float>((rows.end - rows.begin) * (columns.end - columns.begin));
}

template <typename T, int N>
__global__ void average_kernel(const T* x, T* y, Plane p) {
  const Place at(p, p.out_height, p.out_width);
  if (!at.inside) return;
  const Range rows = window(at.row, p.spec, p.height);
  const Range columns = window(at.column, p.spec, p.width);
  for (int64_t image = blockIdx.y; image < p.images; image += gridDim.y) {
    const auto* in = reinterpret_cast<const Vec<T, N>*>(x) + image * p.height * p.width * p.packs;
    float sum[N] = {};
    for (int h = rows.begin; h < rows.end; ++h) {
      for (int w = columns.begin; w < columns.end; ++w) {
        const Vec<T, N> v = in[(h * p.width + w) * p.packs + at.pack];
#pragma unroll
        for (int k = 0; k < N; ++k) sum[k] += load(v.v[k]);
      }
    }
    Vec<T, N> out;
#pragma unroll
    for (int k = 0; k < N; ++k) store(&out.v[k], sum[k] * share(rows, columns));
    reinterpret_cast<Vec<T, N>*>(
        y)[((image * p.out_height + at.row) * p.out_width + at.column) * p.packs + at.pack] = out;
  }
}

template <typename T, int N>
__global__ void average_grad_kernel(const T* dy, T* dx, Plane p) {
  const Place at(p, p.height, p.width);
  if (!at.inside) return;
  const Range rows = windows_with(at.row, p.spec, p.out_height);
  const Range columns = windows_with(at.column, p.spec, p.out_width);
  for (int64_t image = blockIdx.y; image < p.images; image += gridDim.y) {
    const auto* out_grad =
        reinterpret_cast<const Vec<T, N>*>(dy) + image * p.out_height * p.out_width * p.packs;
    float sum[N] = {};
    for (int oh = rows.begin; oh < rows.end; ++oh) {
      for (int ow = columns.begin; ow < columns.end; ++ow) {
        const Vec<T, N> g = out_grad[(oh * p.out_width + ow) * p.packs + at.pack];
        const float part = share(window(oh, p.spec, p.height), window(ow, p.spec, p.width));
#pragma unroll
        for (int k = 0; k < N; ++k) sum[k] += load(g.v[k]) * part;
      }
    }
    Vec<T, N> out;
#pragma unroll
    for (int k = 0; k < N; ++k) store(&out.v[k], sum[k]);
    reinterpret_cast<Vec<T, N>*>(
        dx)[((image * p.height + at.row) * p.width + at.column) * p.packs + at.pack] = out;
  }
}

// n = images * channels means over `pixels` rows of `channels`.
template <typename T>
__global__ void global_kernel(const T* x, T* y, int64_t n, int64_t channels, int64_t pixels) {
  for (int64_t i = thread_index(); i < n; i += item_stride()) {
    const T* p = x + i / channels * channels * pixels + i % channels;
    float sum = 0;
    for (int64_t k = 0; k < pixels; ++k) sum += load(p[k * channels]);
    store(y + i, sum / static_cast<float>(pixels));
  }
}

template <typename T>
__global__ void global_grad_kernel(const T* dy, T* dx, int64_t n, int64_t channels,
                                   int64_t pixels) {
  const float part = 1.0f / static_cast<float>(pixels);
  for (int64_t i = thread_index(); i < n; i += item_stride()) {
    const int64_t image = i / (channels * pixels);
    store(dx + i, load(dy[image * channels + i % channels]) * part);
  }
}

Shape pooled_shape(const Shape& x, const PoolSpec& s) {
  return {x[0], x[1], (x[2] + 2 * s.padding - s.kernel) / s.stride + 1,
          (x[3] + 2 * s.padding - s.kernel) / s.stride + 1};
}

// f(N, plane) with the pack size that the channels and addresses allow.
template <typename T, typename F, typename... P>
void with_plane(const Shape& in, const Shape& out, const PoolSpec& spec, F&& f, const P*... at) {
  const Plane plane{in[0],
                    static_cast<int>(in[2]),
                    static_cast<int>(in[3]),
                    static_cast<int>(out[2]),
                    static_cast<int>(out[3]),
                    static_cast<int>(in[1]),
                    spec};
  if (in[1] % kVec<T> == 0 && (aligned(at) && ...)) {
    Plane packed = plane;
    packed.packs /= kVec<T>;
    f(std::integral_constant<int, kVec<T>>{}, packed);
  } else {
    f(std::integral_constant<int, 1>{}, plane);
  }
}

// f(Tap{}) with a type that holds a window's places.
Dtype tap_dtype(const PoolSpec& s) { return s.kernel < 16 ? Dtype::kU8 : Dtype::kI32; }
template <typename F>
void with_tap(const PoolSpec& s, F&& f) {
  if (tap_dtype(s) == Dtype::kU8) {
    f(uint8_t{});
  } else {
    f(int32_t{});
  }
}

Tensor images(const Shape& shape, Dtype dtype, Device device) {
  return Tensor::empty(shape, dtype, device, Layout::kChannelsLast);
}

}  // namespace

Tensor CudaBackend::max_pool(const Tensor& input, const PoolSpec& spec, bool want_grad,
                             Tensor& workspace) {
  Context& c = context(device_);
  const Tensor x = channels_inner(input);
  const Shape shape = pooled_shape(x.shape(), spec);
  Tensor y = images(shape, x.dtype(), device());
  workspace = want_grad ? images(shape, tap_dtype(spec), device()) : Tensor();
  if (y.numel() == 0) return y;
  with_activation(x.dtype(), [&]<typename T>(T) {
    const T* px = read<T>(c, x);
    T* py = write<T>(c, y);
    with_plane<T>(
        x.shape(), shape, spec,
        [&]<int N>(std::integral_constant<int, N>, const Plane& p) {
          with_tap(spec, [&]<typename Tap>(Tap) {
            Tap* taps = want_grad ? write<Tap>(c, workspace) : nullptr;
            launch(max_kernel<T, N, Tap>, grid_of(p, p.out_height, p.out_width), kThreads, 0,
                   c.stream, px, py, taps, p);
          });
        },
        px, py);
  });
  return y;
}

Tensor CudaBackend::max_pool_grad(const Tensor& dy, const Tensor& workspace, const PoolSpec& spec,
                                  const Shape& x_shape) {
  Context& c = context(device_);
  const Tensor g = channels_inner(dy);
  Tensor dx = images(x_shape, g.dtype(), device());
  if (dx.numel() == 0) return dx;
  with_activation(g.dtype(), [&]<typename T>(T) {
    const T* pg = read<T>(c, g);
    T* pdx = write<T>(c, dx);
    with_plane<T>(
        x_shape, g.shape(), spec,
        [&]<int N>(std::integral_constant<int, N>, const Plane& p) {
          with_tap(spec, [&]<typename Tap>(Tap) {
            launch(max_grad_kernel<T, N, Tap>, grid_of(p, p.height, p.width), kThreads, 0, c.stream,
                   pg, read<Tap>(c, workspace), pdx, p);
          });
        },
        pg, pdx);
  });
  return dx;
}

Tensor CudaBackend::avg_pool(const Tensor& input, const PoolSpec& spec) {
  Context& c = context(device_);
  const Tensor x = channels_inner(input);
  const Shape shape = pooled_shape(x.shape(), spec);
  Tensor y = images(shape, x.dtype(), device());
  if (y.numel() == 0) return y;
  with_activation(x.dtype(), [&]<typename T>(T) {
    const T* px = read<T>(c, x);
    T* py = write<T>(c, y);
    with_plane<T>(
        x.shape(), shape, spec,
        [&]<int N>(std::integral_constant<int, N>, const Plane& p) {
          launch(average_kernel<T, N>, grid_of(p, p.out_height, p.out_width), kThreads, 0, c.stream,
                 px, py, p);
        },
        px, py);
  });
  return y;
}

Tensor CudaBackend::avg_pool_grad(const Tensor& dy, const PoolSpec& spec, const Shape& x_shape) {
  Context& c = context(device_);
  const Tensor g = channels_inner(dy);
  Tensor dx = images(x_shape, g.dtype(), device());
  if (dx.numel() == 0) return dx;
  with_activation(g.dtype(), [&]<typename T>(T) {
    const T* pg = read<T>(c, g);
    T* pdx = write<T>(c, dx);
    with_plane<T>(
        x_shape, g.shape(), spec,
        [&]<int N>(std::integral_constant<int, N>, const Plane& p) {
          launch(average_grad_kernel<T, N>, grid_of(p, p.height, p.width), kThreads, 0, c.stream,
                 pg, pdx, p);
        },
        pg, pdx);
  });
  return dx;
}

Tensor CudaBackend::global_avg_pool(const Tensor& input) {
  Context& c = context(device_);
  const Tensor x = channels_inner(input);
  Tensor y = Tensor::empty({x.dim(0), x.dim(1)}, x.dtype(), device());
  const int64_t n = y.numel();
  if (n == 0) return y;
  with_activation(x.dtype(), [&]<typename T>(T) {
    launch(global_kernel<T>, blocks_for(n), kThreads, 0, c.stream, read<T>(c, x), write<T>(c, y), n,
           x.dim(1), x.dim(2) * x.dim(3));
  });
  return y;
}

Tensor CudaBackend::global_avg_pool_grad(const Tensor& dy, const Shape& x_shape) {
  Context& c = context(device_);
  const Tensor g = dy.plain();
  Tensor dx = images(x_shape, g.dtype(), device());
  const int64_t n = dx.numel();
  if (n == 0) return dx;
  with_activation(g.dtype(), [&]<typename T>(T) {
    launch(global_grad_kernel<T>, blocks_for(n), kThreads, 0, c.stream, read<T>(c, g),
           write<T>(c, dx), n, x_shape[1], x_shape[2] * x_shape[3]);
  });
  return dx;
}

}  // namespace ens::cuda
