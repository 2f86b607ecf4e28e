// SPDX-License-Identifier: Apache-2.0
// Batch normalisation, over [rows][channels].
//
// The time goes into memory traffic and, for small maps, into launches. There are two forms of both
// the forward and the backward pass:
//
// - One launch, where there are few rows and the channels fill vectors of 16 bytes. A block keeps
//   all rows of its channels in registers, sums them, and normalises them.
// - Two launches otherwise. The first sums slices of the rows, one slice to a block, and the last
//   block of each group of channels adds up the slices. The second normalises.
//
// The backward pass needs to know where the ReLU was active. It computes that from x, which it
// reads anyway, instead of reading y; only after a residual does it have to read y.
//
// Sums are added in a fixed order (threads, warps, blocks, slices), so results repeat to the bit.
#include <algorithm>

#include "nn/cuda/cuda_backend.h"
#include "nn/cuda/kernels.h"

namespace ens::cuda {
namespace {

constexpr int kWarp = 32, kWarps = kThreads / kWarp;
constexpr int kMostAcross =
    8;  // vectors of channels that a block spans: shared memory for the rest

// How a grid of blocks of kThreads covers the matrix: x over vectors of channels, y over the rows.
struct Cover {
  dim3 block, grid;
  int64_t slice;  // rows of one block
};

// At least `rows_each` rows for each thread, and about `most` blocks.
Cover cover(int64_t rows, int64_t packs, int64_t rows_each, int64_t most) {
  Cover v;
  unsigned x = 1;
  while (x < kMostAcross && x < packs) x *= 2;
  v.block = dim3(x, kThreads / x);
  const int64_t across = (packs + x - 1) / x;
  const int64_t slices =
      std::max<int64_t>(std::min(most / across, rows / (rows_each * v.block.y)), 1);
  v.slice = (rows + slices - 1) / slices;
  v.grid = dim3(static_cast<unsigned>(across), static_cast<unsigned>(slices));
  return v;
}
// Sums: enough blocks to fill a GPU, few enough for one block to add up.
Cover cover_sums(int64_t rows, int64_t packs) { return cover(rows, packs, 8, 256); }
Cover cover_all(int64_t rows, int64_t packs) { return cover(rows, packs, 4, 4096); }

// This thread's channels, and its rows of its block's: every blockDim.y-th from first_row on.
template <int N>
__device__ inline int64_t first_channel() {
  return (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
}
__device__ inline int64_t first_row(int64_t slice) {
  return static_cast<int64_t>(blockIdx.y) * slice + threadIdx.y;
}
__device__ inline int64_t end_row(int64_t slice, int64_t rows) {
  const int64_t end = (static_cast<int64_t>(blockIdx.y) + 1) * slice;
  return end < rows ? end : rows;
}
// f(i, row) for R of a thread's rows from `first` on, where they are before `end`. All are read
// before the first is used: the time of one read, not of R. More would take the registers that
// kernels of other nets need to run beside.
constexpr int kAtOnce = 2;
template <int R, typename F>
__device__ inline void for_rows(int64_t first, int64_t end, F&& f) {
#pragma unroll
  for (int i = 0; i < R; ++i) {
    const int64_t row = first + i * static_cast<int64_t>(blockDim.y);
    if (row < end) f(i, row);
  }
}
__device__ inline int thread_of_block() {
  return static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
}

template <typename T, int N>
__device__ inline Vec<T, N> vec_at(const T* p, int64_t i) {
  return *reinterpret_cast<const Vec<T, N>*>(p + i);
}
template <typename T, int N>
__device__ inline Vec<T, N>& vec_at(T* p, int64_t i) {
  return *reinterpret_cast<Vec<T, N>*>(p + i);
}

// Adds up v over threadIdx.y: out[k * blockDim.x + x] is the sum of v[k] of the threads with this
// x, for the block's threads to read.
template <int K>
__device__ void add_rows(float (&v)[K], float* out) {
  __shared__ float warps[kWarps][K * kMostAcross];
  const int t = thread_of_block(), across = static_cast<int>(blockDim.x);
  for (int distance = across; distance < kWarp; distance *= 2) {
#pragma unroll
    for (int k = 0; k < K; ++k) v[k] += __shfl_xor_sync(0xffffffffu, v[k], distance);
  }
  if (t % kWarp < across) {
#pragma unroll
    for (int k = 0; k < K; ++k) warps[t / kWarp][k * across + t % kWarp] = v[k];
  }
  __syncthreads();
  for (int i = t; i < K * across; i += kThreads) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += warps[w][i];
    out[i] = sum;
  }
  __syncthreads();
}

// Where the blocks of a column of the grid leave what add_rows gave: [gridDim.x][gridDim.y][K *
// blockDim.x].
struct Parts {
  float* numbers;
  int32_t* counters;  // zeros, one for each column
};

// add_rows over all blocks of a column: true for the last of them to get here, and only there
// `total` (as `out` above) holds the sums, in an order that does not change.
template <int K>
__device__ bool add_slices(float (&v)[K], const Parts& parts, double* total) {
  constexpr int kWide = K < 4 ? K : 4;  // elements of one read
  __shared__ double shared[kThreads * kWide];
  const int t = thread_of_block(), numbers = K * static_cast<int>(blockDim.x);
  float* column = parts.numbers + static_cast<int64_t>(blockIdx.x) * gridDim.y * numbers;
  add_rows(v, column + static_cast<int64_t>(blockIdx.y) * numbers);
  if (!is_last_block(parts.counters + blockIdx.x, static_cast<int>(gridDim.y), t == 0)) {
    return false;
  }
  const int readers = numbers / kWide, step = kThreads / readers;
  double sum[kWide] = {};
#pragma unroll 8
  for (int s = t / readers; s < static_cast<int>(gridDim.y); s += step) {
    const auto part = vec_at<float, kWide>(static_cast<const float*>(column),
                                           static_cast<int64_t>(s) * numbers + t % readers * kWide);
#pragma unroll
    for (int k = 0; k < kWide; ++k) sum[k] += static_cast<double>(part.v[k]);
  }
#pragma unroll
  for (int k = 0; k < kWide; ++k) shared[t * kWide + k] = sum[k];
  __syncthreads();
  for (int i = t; i < numbers; i += kThreads) {
    double all = 0;
    for (int s = 0; s < step; ++s) all += shared[s * numbers + i];
    total[i] = all;
  }
  __syncthreads();
  return true;
}

// What the kernels know of a layer besides its images.
struct Layer {
  int64_t rows, channels;
  double per_row;  // 1 / rows
  const float *gamma, *beta;
  float eps;
  bool relu;
  float *mean, *var;                  // of this batch
  float *scale, *shift;               // normalisation as y = x * scale + shift
  float *running_mean, *running_var;  // may be null
  float momentum, unbias;
};

// f(channel, its sums) for the block's channels, of what add_slices gave for 2 N sums.
template <int N, typename F>
__device__ inline void for_channels(const Layer& l, const double* total, F&& f) {
  const int across = static_cast<int>(blockDim.x);
  for (int i = thread_of_block(); i < N * across; i += kThreads) {
    const int64_t channel =
        (static_cast<int64_t>(blockIdx.x) * across + i % across) * N + i / across;
    if (channel < l.channels) f(channel, total[i], total[N * across + i]);
  }
}

// Reads a channel's N elements.
template <int N>
__device__ inline void read_channels(const float* from, int64_t c, float (&to)[N]) {
#pragma unroll
  for (int k = 0; k < N; ++k) to[k] = from[c + k];
}

struct ScaleShift {
  float scale, shift;
};

// From the sums of x - origin and of its square. The first row as origin keeps the variance from
// cancelling.
__device__ ScaleShift end_moments(const Layer& l, int64_t c, float origin, double sum,
                                  double square) {
  const double offset = sum * l.per_row;
  const double variance = square * l.per_row - offset * offset;
  const float mean = static_cast<float>(static_cast<double>(origin) + offset);
  const float var = static_cast<float>(variance > 0 ? variance : 0);
  l.mean[c] = mean;
  l.var[c] = var;
  const float scale = l.gamma[c] / sqrtf(var + l.eps);
  const float shift = l.beta[c] - mean * scale;
  l.scale[c] = scale;
  l.shift[c] = shift;
  if (l.running_mean) l.running_mean[c] += l.momentum * (mean - l.running_mean[c]);
  if (l.running_var) l.running_var[c] += l.momentum * (l.unbias * var - l.running_var[c]);
  return {scale, shift};
}

// What the input's gradient is made of: dz * scale + x * of_x + constant.
struct InputGrad {
  float scale, of_x, constant;
};

// With h = (x - mean) / deviation: dbeta = sum dz, dgamma = sum dz h, and
// dx = scale * (dz - dbeta / count - h * dgamma / count). From the sums of dz and dz * (x - mean).
__device__ InputGrad end_grads(const Layer& l, int64_t c, float* dgamma, float* dbeta, double sum,
                               double product) {
  const auto per_deviation = static_cast<double>(1.0f / sqrtf(l.var[c] + l.eps));
  const auto scale = static_cast<double>(l.scale[c]);
  const double of_h = product * per_deviation;
  const double of_x = -scale * of_h * l.per_row * per_deviation;
  dbeta[c] = static_cast<float>(sum);
  dgamma[c] = static_cast<float>(of_h);
  return {static_cast<float>(scale), static_cast<float>(of_x),
          static_cast<float>(-scale * sum * l.per_row - of_x * static_cast<double>(l.mean[c]))};
}

template <typename T, int N>
__device__ inline void add_moments(const Vec<T, N>& v, const Vec<T, N>& origin,
                                   float (&sums)[2 * N]) {
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float d = load(v.v[k]) - load(origin.v[k]);
    sums[k] += d;
    sums[N + k] += d * d;
  }
}

template <typename T, int N>
__device__ inline Vec<T, N> normalised(Vec<T, N> v, bool adds, const Vec<T, N>& residual,
                                       const float (&scale)[N], const float (&shift)[N],
                                       bool relu) {
#pragma unroll
  for (int k = 0; k < N; ++k) {
    float r = fmaf(load(v.v[k]), scale[k], shift[k]);
    if (adds) r += load(residual.v[k]);
    store(&v.v[k], relu && r < 0.0f ? 0.0f : r);
  }
  return v;
}

// dz: dy, or 0 where the ReLU cut, which y tells if `from_y`, else x.
template <typename T, int N>
__device__ inline Vec<T, N> before_relu(Vec<T, N> g, const Vec<T, N>& x, bool from_y,
                                        const Vec<T, N>& y, const float (&scale)[N],
                                        const float (&shift)[N]) {
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float out = from_y ? load(y.v[k]) : fmaf(load(x.v[k]), scale[k], shift[k]);
    if (!(out > 0.0f)) store(&g.v[k], 0.0f);
  }
  return g;
}

template <typename T, int N>
__device__ inline void add_grads(const Vec<T, N>& dz, const Vec<T, N>& x, const float (&centre)[N],
                                 float (&sums)[2 * N]) {
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float d = load(dz.v[k]);
    sums[k] += d;
    sums[N + k] += d * (load(x.v[k]) - centre[k]);
  }
}

template <typename T, int N>
__device__ inline Vec<T, N> input_grad(Vec<T, N> dz, const Vec<T, N>& x, const InputGrad (&of)[N]) {
#pragma unroll
  for (int k = 0; k < N; ++k) {
    store(&dz.v[k],
          fmaf(load(dz.v[k]), of[k].scale, fmaf(load(x.v[k]), of[k].of_x, of[k].constant)));
  }
  return dz;
}

// ---- two launches

template <typename T, int N>
__global__ void moments_kernel(const T* x, Layer l, Parts parts, int64_t slice) {
  __shared__ double total[2 * N * kMostAcross];
  const int64_t c = first_channel<N>(), end = end_row(slice, l.rows);
  float sums[2 * N] = {};
  if (c < l.channels) {
    const Vec<T, N> origin = vec_at<T, N>(x, c);
    for (int64_t r = first_row(slice); r < end; r += 4 * kAtOnce * blockDim.y) {
      Vec<T, N> v[4 * kAtOnce] = {};
      for_rows<4 * kAtOnce>(
          r, end, [&](int i, int64_t row) { v[i] = vec_at<T, N>(x, row * l.channels + c); });
      for_rows<4 * kAtOnce>(r, end, [&](int i, int64_t) { add_moments(v[i], origin, sums); });
    }
  }
  if (!add_slices(sums, parts, total)) return;
  for_channels<N>(l, total, [&](int64_t channel, double sum, double square) {
    end_moments(l, channel, load(x[channel]), sum, square);
  });
}

template <typename T, int N>
__global__ void normalise_kernel(const T* x, const T* residual, T* y, Layer l, int64_t slice) {
  const int64_t c = first_channel<N>(), end = end_row(slice, l.rows);
  if (c >= l.channels) return;
  float scale[N], shift[N];
  read_channels(l.scale, c, scale);
  read_channels(l.shift, c, shift);
  for (int64_t r = first_row(slice); r < end; r += kAtOnce * blockDim.y) {
    Vec<T, N> v[kAtOnce] = {}, added[kAtOnce] = {};
    for_rows<kAtOnce>(r, end, [&](int i, int64_t row) {
      v[i] = vec_at<T, N>(x, row * l.channels + c);
      if (residual) added[i] = vec_at<T, N>(residual, row * l.channels + c);
    });
    for_rows<kAtOnce>(r, end, [&](int i, int64_t row) {
      vec_at<T, N>(y, row * l.channels + c) =
          normalised(v[i], residual != nullptr, added[i], scale, shift, l.relu);
    });
  }
}

// y and dz: null without a residual. of [channels].
template <typename T, int N>
__global__ void grad_sums_kernel(const T* dy, const T* x, const T* y, T* dz, Layer l, float* dgamma,
                                 float* dbeta, InputGrad* of, Parts parts, int64_t slice) {
  __shared__ double total[2 * N * kMostAcross];
  const int64_t c = first_channel<N>(), end = end_row(slice, l.rows);
  float sums[2 * N] = {};
  if (c < l.channels) {
    float scale[N], shift[N], centre[N];
    read_channels(l.scale, c, scale);
    read_channels(l.shift, c, shift);
    read_channels(l.mean, c, centre);
    for (int64_t r = first_row(slice); r < end; r += kAtOnce * blockDim.y) {
      Vec<T, N> v[kAtOnce] = {}, g[kAtOnce] = {}, out[kAtOnce] = {};
      for_rows<kAtOnce>(r, end, [&](int i, int64_t row) {
        const int64_t at = row * l.channels + c;
        v[i] = vec_at<T, N>(x, at);
        g[i] = vec_at<T, N>(dy, at);
        if (y) out[i] = vec_at<T, N>(y, at);
      });
      for_rows<kAtOnce>(r, end, [&](int i, int64_t row) {
        if (l.relu) g[i] = before_relu(g[i], v[i], y != nullptr, out[i], scale, shift);
        if (dz) vec_at<T, N>(dz, row * l.channels + c) = g[i];
        add_grads(g[i], v[i], centre, sums);
      });
    }
  }
  if (!add_slices(sums, parts, total)) return;
  for_channels<N>(l, total, [&](int64_t channel, double sum, double product) {
    of[channel] = end_grads(l, channel, dgamma, dbeta, sum, product);
  });
}

template <typename T, int N>
__global__ void grad_input_kernel(const T* dy, const T* x, T* dx, Layer l, const InputGrad* of,
                                  int64_t slice) {
  const int64_t c = first_channel<N>(), end = end_row(slice, l.rows);
  if (c >= l.channels) return;
  float scale[N], shift[N];
  InputGrad mine[N];
  read_channels(l.scale, c, scale);
  read_channels(l.shift, c, shift);
#pragma unroll
  for (int k = 0; k < N; ++k) mine[k] = of[c + k];
  for (int64_t r = first_row(slice); r < end; r += kAtOnce * blockDim.y) {
    Vec<T, N> v[kAtOnce] = {}, g[kAtOnce] = {};
    for_rows<kAtOnce>(r, end, [&](int i, int64_t row) {
      v[i] = vec_at<T, N>(x, row * l.channels + c);
      g[i] = vec_at<T, N>(dy, row * l.channels + c);
    });
    for_rows<kAtOnce>(r, end, [&](int i, int64_t row) {
      if (l.relu) g[i] = before_relu(g[i], v[i], false, v[i], scale, shift);
      vec_at<T, N>(dx, row * l.channels + c) = input_grad(g[i], v[i], mine);
    });
  }
}

// ---- one launch: block b has all rows of N channels, R of them in each thread's registers

constexpr int kMostRows = 8;  // R at most

template <typename T, int N, int R>
__global__ void whole_kernel(const T* x, const T* residual, T* y, Layer l) {
  __shared__ float total[2 * N];
  __shared__ ScaleShift of_channel[N];
  const int64_t c = static_cast<int64_t>(blockIdx.x) * N;
  const auto row = [](int i) { return static_cast<int64_t>(threadIdx.y) + i * kThreads; };
  Vec<T, N> v[R];
#pragma unroll
  for (int i = 0; i < R; ++i) {
    if (row(i) < l.rows) v[i] = vec_at<T, N>(x, row(i) * l.channels + c);
  }
  const Vec<T, N> origin = vec_at<T, N>(x, c);
  float sums[2 * N] = {};
#pragma unroll
  for (int i = 0; i < R; ++i) {
    if (row(i) < l.rows) add_moments(v[i], origin, sums);
  }
  add_rows(sums, total);
  if (threadIdx.y < N) {
    const int k = static_cast<int>(threadIdx.y);
    of_channel[k] = end_moments(l, c + k, load(x[c + k]), static_cast<double>(total[k]),
                                static_cast<double>(total[N + k]));
  }
  __syncthreads();
  float scale[N], shift[N];
#pragma unroll
  for (int k = 0; k < N; ++k) {
    scale[k] = of_channel[k].scale;
    shift[k] = of_channel[k].shift;
  }
#pragma unroll
  for (int i = 0; i < R; ++i) {
    if (row(i) >= l.rows) continue;
    const int64_t at = row(i) * l.channels + c;
    Vec<T, N> added;
    if (residual) added = vec_at<T, N>(residual, at);
    vec_at<T, N>(y, at) = normalised(v[i], residual != nullptr, added, scale, shift, l.relu);
  }
}

template <typename T, int N, int R>
__global__ void whole_grad_kernel(const T* dy, const T* x, const T* y, T* dz, T* dx, Layer l,
                                  float* dgamma, float* dbeta) {
  __shared__ float total[2 * N];
  __shared__ InputGrad of_channel[N];
  const int64_t c = static_cast<int64_t>(blockIdx.x) * N;
  const auto row = [](int i) { return static_cast<int64_t>(threadIdx.y) + i * kThreads; };
  float scale[N], shift[N], centre[N];
  read_channels(l.scale, c, scale);
  read_channels(l.shift, c, shift);
  read_channels(l.mean, c, centre);
  Vec<T, N> v[R], g[R];
#pragma unroll
  for (int i = 0; i < R; ++i) {
    if (row(i) >= l.rows) continue;
    v[i] = vec_at<T, N>(x, row(i) * l.channels + c);
    g[i] = vec_at<T, N>(dy, row(i) * l.channels + c);
  }
  float sums[2 * N] = {};
#pragma unroll
  for (int i = 0; i < R; ++i) {
    if (row(i) >= l.rows) continue;
    const int64_t at = row(i) * l.channels + c;
    Vec<T, N> out;
    if (y) out = vec_at<T, N>(y, at);
    if (l.relu) g[i] = before_relu(g[i], v[i], y != nullptr, out, scale, shift);
    if (dz) vec_at<T, N>(dz, at) = g[i];
    add_grads(g[i], v[i], centre, sums);
  }
  add_rows(sums, total);
  if (threadIdx.y < N) {
    const int k = static_cast<int>(threadIdx.y);
    of_channel[k] = end_grads(l, c + k, dgamma, dbeta, static_cast<double>(total[k]),
                              static_cast<double>(total[N + k]));
  }
  __syncthreads();
  InputGrad of[N];
#pragma unroll
  for (int k = 0; k < N; ++k) of[k] = of_channel[k];
#pragma unroll
  for (int i = 0; i < R; ++i) {
    if (row(i) < l.rows) vec_at<T, N>(dx, row(i) * l.channels + c) = input_grad(g[i], v[i], of);
  }
}

// f(R) with the rows that each thread has to keep, if one launch can do it.
template <int N, typename F>
bool in_one_launch(int64_t rows, F&& f) {
  if constexpr (N > 1) {
    if (rows <= 2 * kThreads) {
      f(std::integral_constant<int, 2>{});
      return true;
    }
    if (rows <= kMostRows * kThreads) {
      f(std::integral_constant<int, kMostRows>{});
      return true;
    }
  }
  return false;
}

// Memory for add_slices.
struct PartsMemory {
  std::shared_ptr<void> numbers;
  Parts parts;
  PartsMemory(Context& c, const Cover& v, int sums)
      : numbers(c.allocate(static_cast<size_t>(v.grid.x * v.grid.y * v.block.x) *
                           static_cast<size_t>(sums) * sizeof(float))),
        parts{static_cast<float*>(numbers.get()), c.counters(v.grid.x)} {}
};

Layer layer_of(Context& ctx, const Tensor& x, const Tensor& gamma, const Tensor& beta,
               const BatchNormSpec& spec) {
  Layer l{};
  l.channels = x.dim(1);
  l.rows = x.numel() / l.channels;
  l.per_row = 1.0 / static_cast<double>(l.rows);
  l.gamma = read<float>(ctx, gamma);
  l.beta = read<float>(ctx, beta);
  l.eps = spec.eps;
  l.relu = spec.relu;
  return l;
}

}  // namespace

Tensor CudaBackend::batch_norm_train(const Tensor& images, const Tensor& gamma, const Tensor& beta,
                                     const Tensor& residual, const BatchNormSpec& spec,
                                     BatchNormSaved& saved) {
  Context& ctx = context(device_);
  const Tensor x = channels_inner(images);
  saved.mean = Tensor::empty({x.dim(1)}, Dtype::kF32, device());
  saved.var = Tensor::empty({x.dim(1)}, Dtype::kF32, device());
  Tensor y = Tensor::empty_like(x);
  if (x.numel() == 0) return y;
  const Tensor added = residual.defined() ? as(residual, x.dtype(), x.layout()) : Tensor();
  Layer l = layer_of(ctx, x, gamma, beta, spec);
  saved.workspace = Tensor::empty({2, l.channels}, Dtype::kF32, device());
  l.mean = write<float>(ctx, saved.mean);
  l.var = write<float>(ctx, saved.var);
  l.scale = write<float>(ctx, saved.workspace);
  l.shift = l.scale + l.channels;
  if (spec.running_mean.defined()) l.running_mean = write<float>(ctx, spec.running_mean);
  if (spec.running_var.defined()) l.running_var = write<float>(ctx, spec.running_var);
  l.momentum = spec.momentum;
  const auto count = static_cast<double>(l.rows);
  l.unbias = count > 1 ? static_cast<float>(count / (count - 1)) : 1.0f;
  with_activation(x.dtype(), [&]<typename T>(T) {
    const T* px = read<T>(ctx, x);
    const T* padded = added.defined() ? read<T>(ctx, added) : nullptr;
    T* py = write<T>(ctx, y);
    with_vec<T>(
        l.channels,
        [&]<int N>(std::integral_constant<int, N>) {
          const int64_t packs = l.channels / N;
          if (in_one_launch<N>(l.rows, [&]<int R>(std::integral_constant<int, R>) {
                launch(whole_kernel<T, N, R>, dim3(static_cast<unsigned>(packs)), dim3(1, kThreads),
                       0, ctx.stream, px, padded, py, l);
              })) {
            return;
          }
          const Cover sums = cover_sums(l.rows, packs), all = cover_all(l.rows, packs);
          const PartsMemory memory(ctx, sums, 2 * N);
          launch(moments_kernel<T, N>, sums.grid, sums.block, 0, ctx.stream, px, l, memory.parts,
                 sums.slice);
          launch(normalise_kernel<T, N>, all.grid, all.block, 0, ctx.stream, px, padded, py, l,
                 all.slice);
        },
        px, padded, py);
  });
  return y;
}

BatchNormGrads CudaBackend::batch_norm_train_grad(const Tensor& dy, const Tensor& images,
                                                  const Tensor& result, const Tensor& gamma,
                                                  const Tensor& beta, bool has_residual,
                                                  const BatchNormSpec& spec,
                                                  const BatchNormSaved& saved) {
  Context& ctx = context(device_);
  const Tensor x = channels_inner(images);
  const Tensor g = as(dy, x.dtype(), x.layout());
  const bool cuts = has_residual && spec.relu;  // y has to tell where
  BatchNormGrads grads;
  grads.x = Tensor::empty_like(x);
  grads.gamma = Tensor::empty({x.dim(1)}, Dtype::kF32, device());
  grads.beta = Tensor::empty({x.dim(1)}, Dtype::kF32, device());
  if (has_residual) grads.residual = cuts ? Tensor::empty_like(x) : g;
  if (x.numel() == 0) {
    grads.gamma.fill(0);
    grads.beta.fill(0);
    return grads;
  }
  const Tensor y = cuts ? as(result, x.dtype(), x.layout()) : Tensor();
  Layer l = layer_of(ctx, x, gamma, beta, spec);
  l.mean = const_cast<float*>(read<float>(ctx, saved.mean));  // only read from here on
  l.var = const_cast<float*>(read<float>(ctx, saved.var));
  l.scale = const_cast<float*>(read<float>(ctx, saved.workspace));
  l.shift = l.scale + l.channels;
  float* dgamma = write<float>(ctx, grads.gamma);
  float* dbeta = write<float>(ctx, grads.beta);
  with_activation(x.dtype(), [&]<typename T>(T) {
    const T* px = read<T>(ctx, x);
    const T* pg = read<T>(ctx, g);
    const T* py = cuts ? read<T>(ctx, y) : nullptr;
    T* pdz = cuts ? write<T>(ctx, grads.residual) : nullptr;
    T* pdx = write<T>(ctx, grads.x);
    with_vec<T>(
        l.channels,
        [&]<int N>(std::integral_constant<int, N>) {
          const int64_t packs = l.channels / N;
          if (in_one_launch<N>(l.rows, [&]<int R>(std::integral_constant<int, R>) {
                launch(whole_grad_kernel<T, N, R>, dim3(static_cast<unsigned>(packs)),
                       dim3(1, kThreads), 0, ctx.stream, pg, px, py, pdz, pdx, l, dgamma, dbeta);
              })) {
            return;
          }
          const Cover sums = cover_sums(l.rows, packs), all = cover_all(l.rows, packs);
          const PartsMemory memory(ctx, sums, 2 * N);
          const auto of = ctx.allocate(static_cast<size_t>(l.channels) * sizeof(InputGrad));
          auto* pof = static_cast<InputGrad*>(of.get());
          launch(grad_sums_kernel<T, N>, sums.grid, sums.block, 0, ctx.stream, pg, px, py, pdz, l,
                 dgamma, dbeta, pof, memory.parts, sums.slice);
          Layer second = l;
          second.relu = l.relu && !cuts;  // else dz is there
          launch(grad_input_kernel<T, N>, all.grid, all.block, 0, ctx.stream, cuts ? pdz : pg, px,
                 pdx, second, pof, all.slice);
        },
        px, pg, py, pdz, pdx);
  });
  return grads;
}

}  // namespace ens::cuda
