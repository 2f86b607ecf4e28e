// SPDX-License-Identifier: Apache-2.0
// Scaling with fixed numbers for each channel, over images of either layout.
#include "nn/cuda/cuda_backend.h"
#include "nn/cuda/kernels.h"

namespace ens::cuda {
namespace {

// y = x * scale[c] + shift[c], then ReLU. n packs; c = element / inner % channels, with inner = 1
// whenever N > 1.
template <typename T, int N>
__global__ void affine_kernel(const T* x, T* y, const float* scale, const float* shift, int64_t n,
                              int64_t channels, int64_t inner, bool relu) {
  for (int64_t i = thread_index(); i < n; i += item_stride()) {
    Vec<T, N> v = reinterpret_cast<const Vec<T, N>*>(x)[i];
    const int64_t c = i * N / inner % channels;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float r = fmaf(load(v.v[k]), scale[c + k], shift[c + k]);
      store(&v.v[k], relu && r < 0.0f ? 0.0f : r);
    }
    reinterpret_cast<Vec<T, N>*>(y)[i] = v;
  }
}

// dx = dy * scale[c], 0 where y is not positive if relu.
template <typename T, int N>
__global__ void affine_grad_kernel(const T* dy, const T* y, T* dx, const float* scale, int64_t n,
                                   int64_t channels, int64_t inner, bool relu) {
  for (int64_t i = thread_index(); i < n; i += item_stride()) {
    Vec<T, N> g = reinterpret_cast<const Vec<T, N>*>(dy)[i];
    const Vec<T, N> v = reinterpret_cast<const Vec<T, N>*>(y)[i];
    const int64_t c = i * N / inner % channels;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float d = load(g.v[k]) * scale[c + k];
      store(&g.v[k], relu && !(load(v.v[k]) > 0.0f) ? 0.0f : d);
    }
    reinterpret_cast<Vec<T, N>*>(dx)[i] = g;
  }
}

// How channels lie in memory: an element's channel is element / inner % channels.
int64_t inner_size(const Tensor& x) {
  if (x.layout() == Layout::kChannelsLast) return 1;
  int64_t inner = 1;
  for (int i = 2; i < x.rank(); ++i) inner *= x.dim(i);
  return inner;
}

}  // namespace

Tensor CudaBackend::channel_affine(const Tensor& x, const Tensor& scale, const Tensor& shift,
                                   bool relu) {
  Context& ctx = context(device_);
  Tensor y = Tensor::empty_like(x);
  const int64_t n = x.numel(), inner = inner_size(x), channels = x.dim(1);
  if (n == 0) return y;
  with_activation(x.dtype(), [&]<typename T>(T) {
    const T* px = read<T>(ctx, x);
    T* py = write<T>(ctx, y);
    with_vec<T>(
        inner == 1 ? channels : 1,
        [&]<int N>(std::integral_constant<int, N>) {
          launch(affine_kernel<T, N>, blocks_for(n / N), kThreads, 0, ctx.stream, px, py,
                 read<float>(ctx, scale), read<float>(ctx, shift), n / N, channels, inner, relu);
        },
        px, py);
  });
  return y;
}

Tensor CudaBackend::channel_affine_grad(const Tensor& dy, const Tensor& y, const Tensor& scale,
                                        bool relu) {
  Context& ctx = context(device_);
  const Tensor g = as(dy, y.dtype(), y.layout());
  Tensor dx = Tensor::empty_like(g);
  const int64_t n = y.numel(), inner = inner_size(y), channels = y.dim(1);
  if (n == 0) return dx;
  with_activation(y.dtype(), [&]<typename T>(T) {
    const T* pg = read<T>(ctx, g);
    const T* py = read<T>(ctx, y);
    T* pdx = write<T>(ctx, dx);
    with_vec<T>(
        inner == 1 ? channels : 1,
        [&]<int N>(std::integral_constant<int, N>) {
          launch(affine_grad_kernel<T, N>, blocks_for(n / N), kThreads, 0, ctx.stream, pg, py, pdx,
                 read<float>(ctx, scale), n / N, channels, inner, relu);
        },
        pg, py, pdx);
  });
  return dx;
}

}  // namespace ens::cuda
