// Batch normalisation and per-channel scaling, over [rows][channels].
//
// All of it is bound by memory, so the aim is few passes: training forward reads x twice and writes
// y; backward reads x and dy twice and writes dx, and finds out from x again where the ReLU was
// active, instead of reading y as well. Sums go from threads to blocks to slices in a fixed order.
#include <algorithm>

#include "nn/cuda/cuda_backend.h"
#include "nn/cuda/kernels.h"

namespace ens::cuda {
namespace {

constexpr int kWide = 4;  // channels of one thread

// How a block of kThreads covers the matrix: x over the channels, y over the rows.
struct Cover {
  int wide;  // channels of one thread: kWide, or 1
  dim3 block, grid;
  int64_t slice;  // rows of one block
  int64_t slices;
};

Cover cover(int64_t rows, int64_t channels, bool packed) {
  Cover v;
  v.wide = packed ? kWide : 1;
  const int64_t threads = channels / v.wide;  // needed along the channels
  unsigned x = 1;
  while (x < 32 && x < threads) x *= 2;
  v.block = dim3(x, kThreads / x);
  const int64_t across = (threads + x - 1) / x;
  // Enough blocks to fill a GPU; at least eight rows for each thread.
  v.slices = std::clamp<int64_t>(std::min<int64_t>(320 / across, rows / (8 * v.block.y)), 1, 256);
  v.slice = (rows + v.slices - 1) / v.slices;
  v.grid = dim3(static_cast<unsigned>(across), static_cast<unsigned>(v.slices));
  return v;
}

// Adds up a and b over threadIdx.y, for the threads with y = 0; shared [2 * N][kThreads].
template <int N>
__device__ void add_rows(float* a, float* b, float (*shared)[kThreads]) {
  const int t = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
#pragma unroll
  for (int k = 0; k < N; ++k) {
    shared[k][t] = a[k];
    shared[N + k][t] = b[k];
  }
  __syncthreads();
  for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
    if (threadIdx.y < half) {
      const int other = t + static_cast<int>(half * blockDim.x);
#pragma unroll
      for (int k = 0; k < 2 * N; ++k) shared[k][t] += shared[k][other];
    }
    __syncthreads();
  }
#pragma unroll
  for (int k = 0; k < N; ++k) {
    a[k] = shared[k][t];
    b[k] = shared[N + k][t];
  }
}

// Sums of x - x[0] and of its square by slice: parts[slice][2][channels]. The first row as origin
// keeps the variance from cancelling.
template <typename T, int N>
__global__ void moments_kernel(const T* x, float* parts, int64_t rows, int64_t channels,
                               int64_t slice) {
  __shared__ float shared[2 * N][kThreads];
  const int64_t c = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * slice;
  const int64_t end = begin + slice < rows ? begin + slice : rows;
  float sum[N] = {}, square[N] = {};
  if (c < channels) {
    const Pack<T, N> origin = *reinterpret_cast<const Pack<T, N>*>(x + c);
    for (int64_t r = begin + threadIdx.y; r < end; r += blockDim.y) {
      const Pack<T, N> v = *reinterpret_cast<const Pack<T, N>*>(x + r * channels + c);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const float d = load(v.v[k]) - load(origin.v[k]);
        sum[k] += d;
        square[k] += d * d;
      }
    }
  }
  add_rows<N>(sum, square, shared);
  if (threadIdx.y == 0 && c < channels) {
    float* out = parts + static_cast<int64_t>(blockIdx.y) * 2 * channels + c;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      out[k] = sum[k];
      out[channels + k] = square[k];
    }
  }
}

// Normalisation as y = x * scale + shift.
__device__ inline void scale_shift(float mean, float var, float gamma, float beta, float eps,
                                   float* scale, float* shift) {
  *scale = gamma / sqrtf(var + eps);
  *shift = beta - mean * *scale;
}

// A warp for each channel, in blocks of kThreads.
constexpr int kWarp = 32;
__device__ inline int64_t channel_of_warp() { return first_item() / kWarp; }
dim3 warps_for(int64_t channels) {
  return dim3(static_cast<unsigned>((channels * kWarp + kThreads - 1) / kThreads));
}

// Sums over the slices of a warp's channel, in double and in an order that does not change; for all
// its lanes.
__device__ inline void add_slices(const float* parts, int64_t slices, int64_t channels, int64_t c,
                                  double* first, double* second) {
  double a = 0, b = 0;
  for (int64_t s = threadIdx.x % kWarp; s < slices; s += kWarp) {
    a += static_cast<double>(parts[s * 2 * channels + c]);
    b += static_cast<double>(parts[(s * 2 + 1) * channels + c]);
  }
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    a += __shfl_xor_sync(0xffffffffu, a, distance);
    b += __shfl_xor_sync(0xffffffffu, b, distance);
  }
  *first = a;
  *second = b;
}

// coefficients [2][channels]: scale, shift.
template <typename T>
__global__ void moments_end_kernel(const T* x, const float* parts, const float* gamma,
                                   const float* beta, float* mean, float* var, float* coefficients,
                                   int64_t slices, int64_t rows, int64_t channels, float eps) {
  const int64_t c = channel_of_warp();
  if (c >= channels) return;
  double sum, square;
  add_slices(parts, slices, channels, c, &sum, &square);
  if (threadIdx.x % kWarp != 0) return;
  const double count = static_cast<double>(rows);
  const double offset = sum / count;
  const double variance = square / count - offset * offset;
  mean[c] = static_cast<float>(static_cast<double>(load(x[c])) + offset);
  var[c] = static_cast<float>(variance > 0 ? variance : 0);
  scale_shift(mean[c], var[c], gamma[c], beta[c], eps, &coefficients[c],
              &coefficients[channels + c]);
}

// y = x * scale[c] + shift[c], then ReLU. n packs; c = element / inner % channels, with inner = 1
// whenever N > 1.
template <typename T, int N>
__global__ void affine_kernel(const T* x, T* y, const float* scale, const float* shift, int64_t n,
                              int64_t channels, int64_t inner, bool relu) {
  for (int64_t i = first_item(); i < n; i += item_stride()) {
    Pack<T, N> v = reinterpret_cast<const Pack<T, N>*>(x)[i];
    const int64_t c = i * N / inner % channels;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float r = fmaf(load(v.v[k]), scale[c + k], shift[c + k]);
      store(&v.v[k], relu && r < 0.0f ? 0.0f : r);
    }
    reinterpret_cast<Pack<T, N>*>(y)[i] = v;
  }
}

// dx = dy * scale[c], 0 where y is not positive if relu.
template <typename T, int N>
__global__ void affine_grad_kernel(const T* dy, const T* y, T* dx, const float* scale, int64_t n,
                                   int64_t channels, int64_t inner, bool relu) {
  for (int64_t i = first_item(); i < n; i += item_stride()) {
    Pack<T, N> g = reinterpret_cast<const Pack<T, N>*>(dy)[i];
    const Pack<T, N> v = reinterpret_cast<const Pack<T, N>*>(y)[i];
    const int64_t c = i * N / inner % channels;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float d = load(g.v[k]) * scale[c + k];
      store(&g.v[k], relu && !(load(v.v[k]) > 0.0f) ? 0.0f : d);
    }
    reinterpret_cast<Pack<T, N>*>(dx)[i] = g;
  }
}

// Sums of dz and dz * (x - mean) by slice, where dz is dy, or 0 where the ReLU cut.
template <typename T, int N>
__global__ void grad_sums_kernel(const T* dy, const T* x, const float* gamma, const float* beta,
                                 const float* mean, const float* var, float eps, bool relu,
                                 float* parts, int64_t rows, int64_t channels, int64_t slice) {
  __shared__ float shared[2 * N][kThreads];
  const int64_t c = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * slice;
  const int64_t end = begin + slice < rows ? begin + slice : rows;
  float sum[N] = {}, product[N] = {};
  if (c < channels) {
    float scale[N], shift[N], centre[N];
#pragma unroll
    for (int k = 0; k < N; ++k) {
      centre[k] = mean[c + k];
      scale_shift(centre[k], var[c + k], gamma[c + k], beta[c + k], eps, &scale[k], &shift[k]);
    }
    for (int64_t r = begin + threadIdx.y; r < end; r += blockDim.y) {
      const Pack<T, N> v = *reinterpret_cast<const Pack<T, N>*>(x + r * channels + c);
      const Pack<T, N> g = *reinterpret_cast<const Pack<T, N>*>(dy + r * channels + c);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const float xk = load(v.v[k]);
        const float d = relu && !(fmaf(xk, scale[k], shift[k]) > 0.0f) ? 0.0f : load(g.v[k]);
        sum[k] += d;
        product[k] += d * (xk - centre[k]);
      }
    }
  }
  add_rows<N>(sum, product, shared);
  if (threadIdx.y == 0 && c < channels) {
    float* out = parts + static_cast<int64_t>(blockIdx.y) * 2 * channels + c;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      out[k] = sum[k];
      out[channels + k] = product[k];
    }
  }
}

// With h = (x - mean) / deviation: dbeta = sum dz, dgamma = sum dz h, and
// dx = scale * (dz - dbeta / count - h * dgamma / count) = dz * scale + x * of_x + constant.
// coefficients [4][channels]: scale, shift, of_x, constant.
__global__ void grad_end_kernel(const float* parts, const float* gamma, const float* beta,
                                const float* mean, const float* var, float eps, float* dgamma,
                                float* dbeta, float* coefficients, int64_t slices, int64_t rows,
                                int64_t channels) {
  const int64_t c = channel_of_warp();
  if (c >= channels) return;
  double sum, product;
  add_slices(parts, slices, channels, c, &sum, &product);
  if (threadIdx.x % kWarp != 0) return;
  const double count = static_cast<double>(rows);
  const double deviation = sqrt(static_cast<double>(var[c] + eps));
  float scale, shift;
  scale_shift(mean[c], var[c], gamma[c], beta[c], eps, &scale, &shift);
  const double of_h = product / deviation;
  const double of_x = -static_cast<double>(scale) * of_h / count / deviation;
  dbeta[c] = static_cast<float>(sum);
  dgamma[c] = static_cast<float>(of_h);
  coefficients[c] = scale;
  coefficients[channels + c] = shift;
  coefficients[2 * channels + c] = static_cast<float>(of_x);
  coefficients[3 * channels + c] = static_cast<float>(-static_cast<double>(scale) * sum / count -
                                                      of_x * static_cast<double>(mean[c]));
}

__global__ void track_kernel(const float* mean, const float* var, float momentum, float unbias,
                             float* running_mean, float* running_var, int64_t channels) {
  const int64_t c = first_item();
  if (c >= channels) return;
  running_mean[c] += momentum * (mean[c] - running_mean[c]);
  running_var[c] += momentum * (unbias * var[c] - running_var[c]);
}

template <typename T, int N>
__global__ void grad_input_kernel(const T* dy, const T* x, T* dx, const float* coefficients,
                                  int64_t n, int64_t channels, bool relu) {
  for (int64_t i = first_item(); i < n; i += item_stride()) {
    const Pack<T, N> v = reinterpret_cast<const Pack<T, N>*>(x)[i];
    Pack<T, N> g = reinterpret_cast<const Pack<T, N>*>(dy)[i];
    const float* at = coefficients + i * N % channels;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float xk = load(v.v[k]), scale = at[k];
      const float d = relu && !(fmaf(xk, scale, at[channels + k]) > 0.0f) ? 0.0f : load(g.v[k]);
      store(&g.v[k], fmaf(d, scale, fmaf(xk, at[2 * channels + k], at[3 * channels + k])));
    }
    reinterpret_cast<Pack<T, N>*>(dx)[i] = g;
  }
}

// f(N) with the pack size that these channels and addresses allow: N numbers of one pack lie in one
// row.
template <typename T, int N, typename F, typename... P>
void with_pack(int64_t channels, F&& f, const P*... at) {
  if (channels % N == 0 && (aligned(at) && ...)) {
    f(std::integral_constant<int, N>{});
  } else {
    f(std::integral_constant<int, 1>{});
  }
}

// How channels lie in memory: an element's channel is element / inner % channels.
int64_t inner_size(const Tensor& x) {
  if (x.layout() == Layout::kChannelsLast) return 1;
  int64_t inner = 1;
  for (int i = 2; i < x.rank(); ++i) inner *= x.dim(i);
  return inner;
}

std::shared_ptr<void> floats(Context& c, int64_t n) {
  return c.allocate(static_cast<size_t>(n) * sizeof(float));
}

}  // namespace

Tensor CudaBackend::batch_norm_train(const Tensor& images, const Tensor& gamma, const Tensor& beta,
                                     float eps, bool relu, BatchNormSaved& saved) {
  Context& ctx = context(device_);
  const Tensor x = channels_inner(images);
  const int64_t channels = x.dim(1), n = x.numel();
  saved.mean = Tensor::empty({channels}, Dtype::kF32, device());
  saved.var = Tensor::empty({channels}, Dtype::kF32, device());
  Tensor y = Tensor::empty_like(x);
  if (n == 0) return y;
  const int64_t rows = n / channels;
  const auto coefficients = floats(ctx, 2 * channels);
  auto* scale = static_cast<float*>(coefficients.get());
  with_activation(x.dtype(), [&]<typename T>(T) {
    const T* px = read<T>(ctx, x);
    T* py = write<T>(ctx, y);
    with_pack<T, kWide>(
        channels,
        [&]<int N>(std::integral_constant<int, N>) {
          const Cover v = cover(rows, channels, N > 1);
          const auto parts = floats(ctx, 2 * channels * v.slices);
          auto* p = static_cast<float*>(parts.get());
          launch(moments_kernel<T, N>, v.grid, v.block, 0, ctx.stream, px, p, rows, channels,
                 v.slice);
          launch(moments_end_kernel<T>, warps_for(channels), kThreads, 0, ctx.stream, px, p,
                 read<float>(ctx, gamma), read<float>(ctx, beta), write<float>(ctx, saved.mean),
                 write<float>(ctx, saved.var), scale, v.slices, rows, channels, eps);
        },
        px);
    with_pack<T, kPack<T>>(
        channels,
        [&]<int N>(std::integral_constant<int, N>) {
          launch(affine_kernel<T, N>, blocks_for(n / N), kThreads, 0, ctx.stream, px, py, scale,
                 scale + channels, n / N, channels, 1, relu);
        },
        px, py);
  });
  return y;
}

BatchNormGrads CudaBackend::batch_norm_train_grad(const Tensor& dy, const Tensor& images,
                                                  const Tensor&, const Tensor& gamma,
                                                  const Tensor& beta, float eps, bool relu,
                                                  const BatchNormSaved& saved) {
  Context& ctx = context(device_);
  const Tensor x = channels_inner(images);
  const Tensor g = as(dy, x.dtype(), x.layout());
  const int64_t channels = x.dim(1), n = x.numel();
  BatchNormGrads grads{Tensor::empty_like(x), Tensor::empty({channels}, Dtype::kF32, device()),
                       Tensor::empty({channels}, Dtype::kF32, device())};
  if (n == 0) {
    grads.gamma.fill(0);
    grads.beta.fill(0);
    return grads;
  }
  const int64_t rows = n / channels;
  const auto memory = floats(ctx, 4 * channels);
  auto* coefficients = static_cast<float*>(memory.get());
  const float* pgamma = read<float>(ctx, gamma);
  const float* pbeta = read<float>(ctx, beta);
  const float* mean = read<float>(ctx, saved.mean);
  const float* var = read<float>(ctx, saved.var);
  with_activation(x.dtype(), [&]<typename T>(T) {
    const T* px = read<T>(ctx, x);
    const T* pg = read<T>(ctx, g);
    T* pdx = write<T>(ctx, grads.x);
    with_pack<T, kWide>(
        channels,
        [&]<int N>(std::integral_constant<int, N>) {
          const Cover v = cover(rows, channels, N > 1);
          const auto parts = floats(ctx, 2 * channels * v.slices);
          auto* p = static_cast<float*>(parts.get());
          launch(grad_sums_kernel<T, N>, v.grid, v.block, 0, ctx.stream, pg, px, pgamma, pbeta,
                 mean, var, eps, relu, p, rows, channels, v.slice);
          launch(grad_end_kernel, warps_for(channels), kThreads, 0, ctx.stream, p, pgamma, pbeta,
                 mean, var, eps, write<float>(ctx, grads.gamma), write<float>(ctx, grads.beta),
                 coefficients, v.slices, rows, channels);
        },
        px, pg);
    with_pack<T, kPack<T>>(
        channels,
        [&]<int N>(std::integral_constant<int, N>) {
          launch(grad_input_kernel<T, N>, blocks_for(n / N), kThreads, 0, ctx.stream, pg, px, pdx,
                 coefficients, n / N, channels, relu);
        },
        px, pg, pdx);
  });
  return grads;
}

void CudaBackend::track_moments(const Tensor& mean, const Tensor& var, float momentum, float unbias,
                                Tensor& running_mean, Tensor& running_var) {
  Context& ctx = context(device_);
  const int64_t channels = running_mean.numel();
  launch(track_kernel, blocks_for(channels), kThreads, 0, ctx.stream, read<float>(ctx, mean),
         read<float>(ctx, var), momentum, unbias, write<float>(ctx, running_mean),
         write<float>(ctx, running_var), channels);
}

Tensor CudaBackend::channel_affine(const Tensor& x, const Tensor& scale, const Tensor& shift,
                                   bool relu) {
  Context& ctx = context(device_);
  Tensor y = Tensor::empty_like(x);
  const int64_t n = x.numel(), inner = inner_size(x), channels = x.dim(1);
  if (n == 0) return y;
  with_activation(x.dtype(), [&]<typename T>(T) {
    const T* px = read<T>(ctx, x);
    T* py = write<T>(ctx, y);
    with_pack<T, kPack<T>>(
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
    with_pack<T, kPack<T>>(
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
