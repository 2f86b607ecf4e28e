// SPDX-License-Identifier: Apache-2.0
// Sums, and the classification loss. Every sum has one order, whatever the GPU does first.
#include <algorithm>
#include <cmath>

#include "nn/cuda/cuda_backend.h"
#include "nn/cuda/kernels.h"

namespace ens::cuda {
namespace {

constexpr int64_t kBlocks = 512;  // enough to fill a GPU

// Neighbours in memory that are all summed, or all kept.
struct Axes {
  int count = 0;
  int64_t size[Shape::kMaxRank];
  bool summed[Shape::kMaxRank];

  void append(int64_t n, bool sum) {
    if (n == 1) return;
    if (count && summed[count - 1] == sum) {
      size[count - 1] *= n;
    } else {
      size[count] = n;
      summed[count++] = sum;
    }
  }
};

// Adds up v over the block's threads (a power of two), for thread 0.
__device__ float block_sum(float v, float* shared) {
  const int t = static_cast<int>(threadIdx.x);
  shared[t] = v;
  __syncthreads();
  for (int half = static_cast<int>(blockDim.x) / 2; half > 0; half /= 2) {
    if (t < half) shared[t] += shared[t + half];
    __syncthreads();
  }
  return shared[0];
}

// Block (k, s) sums slice s of what belongs to kept element k: out[s][k].
template <typename T>
__global__ void sum_kernel(const T* x, float* out, Axes axes, int64_t kept, int64_t summed,
                           int64_t slice) {
  __shared__ float shared[kThreads];
  for (int64_t k = blockIdx.x; k < kept; k += gridDim.x) {
    // Strides of the axes, innermost first, and the offset of k.
    int64_t stride[Shape::kMaxRank];
    int64_t inner = 1, rest = k, base = 0;
    for (int i = axes.count - 1; i >= 0; --i) {
      stride[i] = inner;
      inner *= axes.size[i];
      if (!axes.summed[i]) {
        base += rest % axes.size[i] * stride[i];
        rest /= axes.size[i];
      }
    }
    const int64_t begin = static_cast<int64_t>(blockIdx.y) * slice;
    const int64_t end = begin + slice < summed ? begin + slice : summed;
    float sum = 0;
    for (int64_t r = begin + threadIdx.x; r < end; r += blockDim.x) {
      int64_t left = r, at = base;
      for (int i = axes.count - 1; i >= 0; --i) {
        if (!axes.summed[i]) continue;
        at += left % axes.size[i] * stride[i];
        left /= axes.size[i];
      }
      sum += load(x[at]);
    }
    const float total = block_sum(sum, shared);
    if (threadIdx.x == 0) out[static_cast<int64_t>(blockIdx.y) * kept + k] = total;
    __syncthreads();
  }
}

// Sums the rows of x [rows][columns]: block (c, s) slice s of 32 columns. out[s][columns].
constexpr int kRowThreads = 8;
template <typename T>
__global__ void column_sum_kernel(const T* x, float* out, int64_t rows, int64_t columns,
                                  int64_t slice) {
  __shared__ float shared[kRowThreads][32];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * slice;
  const int64_t end = begin + slice < rows ? begin + slice : rows;
  float sum = 0;
  if (column < columns) {
    for (int64_t r = begin + threadIdx.y; r < end; r += kRowThreads) {
      sum += load(x[r * columns + column]);
    }
  }
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && column < columns) {
    for (int i = 1; i < kRowThreads; ++i) sum += shared[i][threadIdx.x];
    out[static_cast<int64_t>(blockIdx.y) * columns + column] = sum;
  }
}

template <typename T>
void column_sums(Context& c, const T* x, float* out, int64_t rows, int64_t columns) {
  const int64_t wide = (columns + 31) / 32;
  const int64_t slices = std::clamp<int64_t>(std::min(kBlocks / wide, rows / 64), 1, 256);
  const int64_t slice = (rows + slices - 1) / slices;
  const dim3 block(32, kRowThreads);
  if (slices == 1) {
    launch(column_sum_kernel<T>, dim3(static_cast<unsigned>(wide)), block, 0, c.stream, x, out,
           rows, columns, rows);
    return;
  }
  const auto parts = c.allocate(static_cast<size_t>(slices * columns) * sizeof(float));
  auto* p = static_cast<float*>(parts.get());
  launch(column_sum_kernel<T>, dim3(static_cast<unsigned>(wide), static_cast<unsigned>(slices)),
         block, 0, c.stream, x, p, rows, columns, slice);
  launch(column_sum_kernel<float>, dim3(static_cast<unsigned>(wide)), block, 0, c.stream, p, out,
         slices, columns, slices);
}

template <typename T>
void sum_axes(Context& c, const T* x, float* out, const Axes& axes, int64_t kept, int64_t summed) {
  if (axes.count == 2 && axes.summed[0]) return column_sums(c, x, out, summed, kept);
  int threads = 32;
  while (threads < kThreads && threads < summed) threads *= 2;
  const int64_t slices = std::clamp<int64_t>(std::min(kBlocks / kept, summed / 4096), 1, 256);
  const int64_t slice = (summed + slices - 1) / slices;
  const dim3 grid(static_cast<unsigned>(std::min<int64_t>(kept, 1 << 20)),
                  static_cast<unsigned>(slices));
  if (slices == 1) {
    launch(sum_kernel<T>, grid, threads, 0, c.stream, x, out, axes, kept, summed, summed);
    return;
  }
  const auto parts = c.allocate(static_cast<size_t>(slices * kept) * sizeof(float));
  auto* p = static_cast<float*>(parts.get());
  launch(sum_kernel<T>, grid, threads, 0, c.stream, x, p, axes, kept, summed, slice);
  column_sums(c, p, out, slices, kept);
}

// What the rows aim at: class indices or distributions, the other null.
struct Targets {
  const int32_t* labels;
  const float* distributions;
  float smoothing;
  int32_t ignore;
};

// A warp for each row. A label that is no class gives NaN: a kernel cannot throw.
constexpr int kRows = kThreads / 32;
__global__ void softmax_kernel(const float* scores, Targets targets, float* probs, float* losses,
                               int64_t batch, int classes) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.y;
  if (b >= batch) return;  // whole warps
  const int lane = static_cast<int>(threadIdx.x);
  const float* row = scores + b * classes;
  float top = -INFINITY;
  for (int k = lane; k < classes; k += 32) top = fmaxf(top, row[k]);
  top = warp_max(top);
  float sum = 0, all = 0, weight = 0, score = 0;
  for (int k = lane; k < classes; k += 32) {
    sum += expf(row[k] - top);
    all += row[k] - top;
    if (targets.distributions) {
      const float t = targets.distributions[b * classes + k];
      weight += t;
      score += t * (row[k] - top);
    }
  }
  sum = warp_sum(sum);
  all = warp_sum(all);
  weight = warp_sum(weight);
  score = warp_sum(score);
  const float scale = 1.0f / sum;
  for (int k = lane; k < classes; k += 32) probs[b * classes + k] = expf(row[k] - top) * scale;
  if (lane != 0) return;
  if (targets.labels) {
    const int32_t label = targets.labels[b];
    if (label == targets.ignore) {
      losses[b] = 0.0f;
      return;
    }
    weight = 1.0f;
    score = label >= 0 && label < classes ? (1.0f - targets.smoothing) * (row[label] - top) +
                                                targets.smoothing * all / classes
                                          : NAN;
  }
  losses[b] = weight * logf(sum) - score;
}

// total[b]: the sum of row b's distribution; null for class indices.
template <typename T>
__global__ void softmax_grad_kernel(const float* probs, Targets targets, const float* total,
                                    const float* weight, T* grad, int64_t n, int classes) {
  for (int64_t i = thread_index(); i < n; i += item_stride()) {
    const int64_t b = i / classes;
    float g;
    if (targets.distributions) {
      g = total[b] * probs[i] - targets.distributions[i];
    } else {
      const int32_t label = targets.labels[b];
      const float hit = i % classes == label ? 1.0f - targets.smoothing : 0.0f;
      g = label == targets.ignore ? 0.0f : probs[i] - hit - targets.smoothing / classes;
    }
    store(grad + i, weight[b] * g);
  }
}

Targets targets_of(Context& c, const Tensor& targets, const CrossEntropySpec& spec) {
  const bool indices = targets.dtype() == Dtype::kI32;
  return {indices ? read<int32_t>(c, targets) : nullptr,
          indices ? nullptr : read<float>(c, targets), spec.smoothing, spec.ignore};
}

}  // namespace

Tensor CudaBackend::sum_to(const Tensor& x, const Shape& shape) {
  Context& c = context(device_);
  const auto summed = [&](int axis) { return shape[axis] == 1 && x.dim(axis) != 1; };
  const auto kept = [&](int axis) { return shape[axis] != 1; };
  if (x.layout() != Layout::kPlain &&
      (x.layout() != Layout::kChannelsLast || (kept(1) && (kept(2) || kept(3))))) {
    return sum_to(x.plain(), shape);  // the kept elements would not come out in plain order
  }
  Axes axes;
  for (int i = 0; i < x.rank(); ++i) {
    constexpr int kLast[] = {0, 2, 3, 1};
    const int axis = x.layout() == Layout::kPlain ? i : kLast[i];
    axes.append(x.dim(axis), summed(axis));
  }
  Tensor result = Tensor::empty(shape, Dtype::kF32, device());
  if (x.numel() == 0) {
    result.fill(0.0f);
    return result;
  }
  const Tensor activation =
      x.dtype() == Dtype::kBF16 || x.dtype() == Dtype::kF16 ? x : x.to(Dtype::kF32);
  with_activation(activation.dtype(), [&]<typename T>(T) {
    sum_axes(c, read<T>(c, activation), write<float>(c, result), axes, shape.numel(),
             x.numel() / shape.numel());
  });
  return result;
}

Tensor CudaBackend::softmax_cross_entropy(const Tensor& logits, const Tensor& targets,
                                          const CrossEntropySpec& spec, Tensor& probs) {
  Context& c = context(device_);
  const Tensor scores = as(logits, Dtype::kF32, Layout::kPlain);
  const int64_t batch = scores.dim(0), classes = scores.dim(1);
  probs = Tensor::empty(scores.shape(), Dtype::kF32, device());
  Tensor losses = Tensor::empty({batch}, Dtype::kF32, device());
  if (scores.numel() == 0) return losses;
  launch(softmax_kernel, dim3(static_cast<unsigned>((batch + kRows - 1) / kRows)), dim3(32, kRows),
         0, c.stream, read<float>(c, scores), targets_of(c, targets, spec), write<float>(c, probs),
         write<float>(c, losses), batch, classes);
  return losses;
}

Tensor CudaBackend::softmax_cross_entropy_grad(const Tensor& probs, const Tensor& targets,
                                               const CrossEntropySpec& spec, const Tensor& weight,
                                               Dtype logits_dtype) {
  Context& c = context(device_);
  Tensor grad = Tensor::empty(probs.shape(), logits_dtype, device());
  const int64_t n = probs.numel();
  if (n == 0) return grad;
  const bool indices = targets.dtype() == Dtype::kI32;
  const Tensor total = indices ? Tensor() : sum_to(targets, {probs.dim(0), 1});
  with_activation(logits_dtype, [&]<typename T>(T) {
    launch(softmax_grad_kernel<T>, blocks_for(n), kThreads, 0, c.stream, read<float>(c, probs),
           targets_of(c, targets, spec), indices ? nullptr : read<float>(c, total),
           read<float>(c, weight), write<T>(c, grad), n, probs.dim(1));
  });
  return grad;
}

}  // namespace ens::cuda
