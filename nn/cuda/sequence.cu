// SPDX-License-Identifier: Apache-2.0
// What transformers need beside matrix products: softmax and layer normalisation of rows, and
// permuted axes. Every sum has one order.
#include "nn/cuda/cuda_backend.h"
#include "nn/cuda/kernels.h"

namespace ens::cuda {
namespace {

// A warp for each row.
constexpr int kRows = kThreads / 32;
dim3 grid_of(int64_t rows) { return dim3(static_cast<unsigned>((rows + kRows - 1) / kRows)); }
const dim3 kWarps(32, kRows);
__device__ int64_t row_of_warp() { return static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.y; }

// queries: rows of a matrix; of_batch: rows of a batch entry. Without a mask lengths is null.
template <typename T>
__global__ void softmax_kernel(const T* x, T* y, const int32_t* lengths, bool causal, int64_t rows,
                               int64_t columns, int64_t queries, int64_t of_batch) {
  const int64_t r = row_of_warp();
  if (r >= rows) return;  // whole warps
  int64_t counted = columns;
  if (lengths) {
    const int64_t length = lengths[r / of_batch];
    counted = length < 0 ? 0 : (length < columns ? length : columns);
  }
  if (causal) {
    const int64_t seen = r % queries + 1 + columns - queries;
    counted = seen < 0 ? 0 : (seen < counted ? seen : counted);
  }
  const T* from = x + r * columns;
  float top = -INFINITY, sum = 0;
  for (int64_t i = threadIdx.x; i < counted; i += 32) top = fmaxf(top, load(from[i]));
  top = warp_max(top);
  for (int64_t i = threadIdx.x; i < counted; i += 32) sum += expf(load(from[i]) - top);
  const float scale = 1.0f / warp_sum(sum);
  for (int64_t i = threadIdx.x; i < columns; i += 32) {
    store(y + r * columns + i, i < counted ? expf(load(from[i]) - top) * scale : 0.0f);
  }
}

template <typename T>
__global__ void softmax_grad_kernel(const T* y, const T* dy, T* dx, int64_t rows, int64_t columns) {
  const int64_t r = row_of_warp();
  if (r >= rows) return;
  float dot = 0;
  for (int64_t i = r * columns + threadIdx.x; i < (r + 1) * columns; i += 32) {
    dot += load(y[i]) * load(dy[i]);
  }
  dot = warp_sum(dot);
  for (int64_t i = r * columns + threadIdx.x; i < (r + 1) * columns; i += 32) {
    store(dx + i, load(y[i]) * (load(dy[i]) - dot));
  }
}

template <typename T>
__global__ void norm_kernel(const T* x, const float* gamma, const float* beta, T* y, float* mean,
                            float* rstd, int64_t rows, int64_t columns, float eps) {
  const int64_t r = row_of_warp();
  if (r >= rows) return;
  const T* from = x + r * columns;
  float sum = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < columns; i += 32) sum += load(from[i]);
  const float m = warp_sum(sum) / static_cast<float>(columns);
  for (int64_t i = threadIdx.x; i < columns; i += 32) {
    const float d = load(from[i]) - m;
    squares += d * d;
  }
  const float s = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(columns) + eps);
  for (int64_t i = threadIdx.x; i < columns; i += 32) {
    store(y + r * columns + i, (load(from[i]) - m) * s * gamma[i] + beta[i]);
  }
  if (threadIdx.x == 0) {
    mean[r] = m;
    rstd[r] = s;
  }
}

// dx = (g - mean(g) - xhat mean(g xhat)) rstd, with g = dy gamma; products: dy xhat, whose sums are
// gamma's gradient.
template <typename T>
__global__ void norm_grad_kernel(const T* dy, const T* x, const float* gamma, const float* mean,
                                 const float* rstd, T* dx, float* products, int64_t rows,
                                 int64_t columns) {
  const int64_t r = row_of_warp();
  if (r >= rows) return;
  const float m = mean[r], s = rstd[r];
  const T *d = dy + r * columns, *from = x + r * columns;
  float g = 0, gx = 0;
  for (int64_t i = threadIdx.x; i < columns; i += 32) {
    const float v = load(d[i]) * gamma[i];
    g += v;
    gx += v * (load(from[i]) - m) * s;
  }
  g = warp_sum(g) / static_cast<float>(columns);
  gx = warp_sum(gx) / static_cast<float>(columns);
  for (int64_t i = threadIdx.x; i < columns; i += 32) {
    const float normal = (load(from[i]) - m) * s;
    store(dx + r * columns + i, (load(d[i]) * gamma[i] - g - normal * gx) * s);
    products[r * columns + i] = load(d[i]) * normal;
  }
}

// The result's axes, outermost first, with the source's strides.
struct Axes {
  int count = 0;
  int64_t size[Shape::kMaxRank], stride[Shape::kMaxRank];
};
template <typename Word>
__global__ void permute_kernel(const Word* from, Word* to, Axes axes, int64_t n) {
  for (int64_t i = thread_index(); i < n; i += item_stride()) {
    int64_t rest = i, at = 0;
    for (int k = axes.count - 1; k >= 0; --k) {
      at += rest % axes.size[k] * axes.stride[k];
      rest /= axes.size[k];
    }
    to[i] = from[at];
  }
}

template <typename T>
__global__ void gather_kernel(const T* table, const int32_t* ids, T* y, int64_t rows, int64_t width,
                              int64_t n) {
  for (int64_t i = thread_index(); i < n * width; i += item_stride()) {
    const int64_t row = ids[i / width];
    if (row >= 0 && row < rows) {
      y[i] = table[row * width + i % width];
    } else {
      store(y + i, NAN);
    }
  }
}

// A warp for each row of the table looks for its ids, 32 at a time, and adds what it finds in their
// order: no atomics, and every sum has one order.
template <typename T>
__global__ void gather_grad_kernel(const T* dy, const int32_t* ids, float* sum, int64_t rows,
                                   int64_t width, int64_t n, int32_t none) {
  const int64_t r = row_of_warp();
  if (r >= rows) return;
  float* to = sum + r * width;
  for (int64_t d = threadIdx.x; d < width; d += 32) to[d] = 0;
  if (r == none) return;
  for (int64_t first = 0; first < n; first += 32) {
    const int64_t mine = first + threadIdx.x;
    unsigned hits = __ballot_sync(0xffffffffu, mine < n && ids[mine] == r);
    for (; hits; hits &= hits - 1) {
      const T* from = dy + (first + __ffs(static_cast<int>(hits)) - 1) * width;
      for (int64_t d = threadIdx.x; d < width; d += 32) to[d] += load(from[d]);
    }
  }
}

// Activations as the kernels want them: of their dtype, or float32; plain.
Tensor rows_of(const Tensor& x) {
  const bool small = x.dtype() == Dtype::kBF16 || x.dtype() == Dtype::kF16;
  return as(x, small ? x.dtype() : Dtype::kF32, Layout::kPlain);
}

}  // namespace

Tensor CudaBackend::softmax(const Tensor& given, const SoftmaxMask& mask) {
  const Tensor x = rows_of(given);
  Context& c = context(device_);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), device());
  if (x.numel() == 0) return y;
  const int64_t columns = x.dim(x.rank() - 1), rows = x.numel() / columns;
  with_activation(x.dtype(), [&]<typename T>(T) {
    launch(softmax_kernel<T>, grid_of(rows), kWarps, 0, c.stream, read<T>(c, x), write<T>(c, y),
           mask.lengths.defined() ? read<int32_t>(c, mask.lengths) : nullptr, mask.causal, rows,
           columns, x.dim(x.rank() - 2), rows / x.dim(0));
  });
  return y.to(given.dtype());
}

Tensor CudaBackend::softmax_grad(const Tensor& given, const Tensor& given_dy) {
  const Tensor y = rows_of(given), dy = as(given_dy, y.dtype(), Layout::kPlain);
  Context& c = context(device_);
  Tensor dx = Tensor::empty(y.shape(), y.dtype(), device());
  if (y.numel() == 0) return dx;
  const int64_t columns = y.dim(y.rank() - 1), rows = y.numel() / columns;
  with_activation(y.dtype(), [&]<typename T>(T) {
    launch(softmax_grad_kernel<T>, grid_of(rows), kWarps, 0, c.stream, read<T>(c, y),
           read<T>(c, dy), write<T>(c, dx), rows, columns);
  });
  return dx.to(given.dtype());
}

Tensor CudaBackend::layer_norm(const Tensor& given, const Tensor& gamma, const Tensor& beta,
                               float eps, LayerNormSaved& saved) {
  const Tensor x = rows_of(given);
  Context& c = context(device_);
  const int64_t columns = gamma.dim(0), rows = x.numel() / columns;
  Tensor y = Tensor::empty(x.shape(), x.dtype(), device());
  saved = {Tensor::empty({rows}, Dtype::kF32, device()),
           Tensor::empty({rows}, Dtype::kF32, device())};
  if (rows == 0) return y;
  with_activation(x.dtype(), [&]<typename T>(T) {
    launch(norm_kernel<T>, grid_of(rows), kWarps, 0, c.stream, read<T>(c, x), read<float>(c, gamma),
           read<float>(c, beta), write<T>(c, y), write<float>(c, saved.mean),
           write<float>(c, saved.rstd), rows, columns, eps);
  });
  return y.to(given.dtype());
}

LayerNormGrads CudaBackend::layer_norm_grad(const Tensor& given_dy, const Tensor& given,
                                            const Tensor& gamma, const LayerNormSaved& saved) {
  const Tensor x = rows_of(given), dy = as(given_dy, x.dtype(), Layout::kPlain);
  Context& c = context(device_);
  const int64_t columns = gamma.dim(0), rows = x.numel() / columns;
  Tensor dx = Tensor::empty(x.shape(), x.dtype(), device());
  Tensor products = Tensor::empty({rows, columns}, Dtype::kF32, device());
  if (rows > 0) {
    with_activation(x.dtype(), [&]<typename T>(T) {
      launch(norm_grad_kernel<T>, grid_of(rows), kWarps, 0, c.stream, read<T>(c, dy), read<T>(c, x),
             read<float>(c, gamma), read<float>(c, saved.mean), read<float>(c, saved.rstd),
             write<T>(c, dx), write<float>(c, products), rows, columns);
    });
  }
  return {dx.to(given.dtype()), sum_to(products, {1, columns}).reshape(gamma.shape()),
          sum_to(dy.reshape({rows, columns}), {1, columns}).reshape(gamma.shape())};
}

Tensor CudaBackend::permute(const Tensor& given, std::span<const int> order) {
  const Tensor x = given.plain();
  Context& c = context(device_);
  Shape shape = x.shape();
  int64_t strides[Shape::kMaxRank], stride = 1;
  for (int i = x.rank() - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= x.dim(i);
  }
  Axes axes;
  for (int i = 0; i < x.rank(); ++i) {
    const int from = order[static_cast<size_t>(i)];
    shape.set(i, x.dim(from));
    if (x.dim(from) == 1) continue;
    // Neighbours that stay neighbours are one axis.
    if (axes.count && axes.stride[axes.count - 1] == strides[from] * x.dim(from)) {
      axes.size[axes.count - 1] *= x.dim(from);
      axes.stride[axes.count - 1] = strides[from];
    } else {
      axes.size[axes.count] = x.dim(from);
      axes.stride[axes.count++] = strides[from];
    }
  }
  Tensor y = Tensor::empty(shape, x.dtype(), device());
  const int64_t n = y.numel();
  if (n == 0) return y;
  const auto run = [&]<typename Word>(Word) {
    launch(permute_kernel<Word>, blocks_for(n), kThreads, 0, c.stream,
           static_cast<const Word*>(read_raw(c, x)), static_cast<Word*>(write_raw(c, y)), axes, n);
  };
  switch (static_cast<int64_t>(x.bytes()) / x.numel()) {
    case 4:
      run(uint32_t{});
      break;
    case 2:
      run(uint16_t{});
      break;
    default:
      run(uint8_t{});
  }
  return y;
}

Tensor CudaBackend::gather(const Tensor& given, const Tensor& ids) {
  const Tensor table = rows_of(given);
  Context& c = context(device_);
  const int64_t width = table.dim(1), n = ids.numel();
  Tensor y = Tensor::empty({n, width}, table.dtype(), device());
  if (y.numel() == 0) return y.to(given.dtype());
  with_activation(table.dtype(), [&]<typename T>(T) {
    launch(gather_kernel<T>, blocks_for(n * width), kThreads, 0, c.stream, read<T>(c, table),
           read<int32_t>(c, ids), write<T>(c, y), table.dim(0), width, n);
  });
  return y.to(given.dtype());
}

Tensor CudaBackend::gather_grad(const Tensor& given, const Tensor& ids, int64_t rows,
                                int32_t none) {
  const Tensor dy = rows_of(given);
  Context& c = context(device_);
  Tensor sum = Tensor::empty({rows, dy.dim(1)}, Dtype::kF32, device());
  if (sum.numel() == 0) return sum;
  with_activation(dy.dtype(), [&]<typename T>(T) {
    launch(gather_grad_kernel<T>, grid_of(rows), kWarps, 0, c.stream, read<T>(c, dy),
           read<int32_t>(c, ids), write<float>(c, sum), rows, dy.dim(1), ids.numel(), none);
  });
  return sum;
}

}  // namespace ens::cuda
