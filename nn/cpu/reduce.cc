// SPDX-License-Identifier: Apache-2.0
// Sums, and the classification loss.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "nn/cpu/cpu_backend.h"
#include "nn/cpu/simd.h"

namespace ens::cpu {
namespace {

constexpr int64_t kGrain = 1 << 15;
constexpr int64_t kRun = 1024;  // elements summed in float32 lanes before double takes over

// Neighbours in memory that are all summed, or all kept.
struct Axis {
  int64_t size;
  bool summed;
};
using Axes = std::vector<Axis>;

void append(Axes& axes, int64_t size, bool summed) {
  if (size == 1) return;
  if (!axes.empty() && axes.back().summed == summed) {
    axes.back().size *= size;
  } else {
    axes.push_back({size, summed});
  }
}

template <typename T>
ENS_INLINE double run_body(const T* x, int64_t n) {
  double total = 0;
  for (int64_t start = 0; start < n; start += kRun) {
    const int64_t end = std::min(n, start + kRun);
    float lanes[64] = {};
    int64_t i = start;
    for (; i + 64 <= end; i += 64) {
#pragma omp simd
      for (int64_t k = 0; k < 64; ++k) lanes[k] += load(x[i + k]);
    }
    for (; i < end; ++i) lanes[i % 64] += load(x[i]);
    for (float lane : lanes) total += static_cast<double>(lane);
  }
  return total;
}
ENS_CLONES double sum_run(const float* x, int64_t n) { return run_body(x, n); }
ENS_CLONES double sum_run(const BFloat16* x, int64_t n) { return run_body(x, n); }

ENS_CLONES void add_rows(const float* x, double* sums, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sums[i] += static_cast<double>(x[i]);
}
ENS_CLONES void add_rows(const BFloat16* x, double* sums, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sums[i] += static_cast<double>(load(x[i]));
}

// Adds the elements of x, laid out as axes[at..], into sums, laid out as the kept ones of them.
// `kept` and `total` are the sizes of those two.
template <typename T>
void accumulate(const T* x, const Axes& axes, size_t at, int64_t total, int64_t kept,
                double* sums) {
  if (at == axes.size()) {
    sums[0] += static_cast<double>(load(x[0]));
    return;
  }
  const Axis axis = axes[at];
  if (at + 1 == axes.size()) {
    if (axis.summed) {
      sums[0] += sum_run(x, axis.size);
    } else {
      add_rows(x, sums, axis.size);
    }
    return;
  }
  const int64_t inner = total / axis.size;
  const int64_t inner_kept = axis.summed ? kept : kept / axis.size;
  for (int64_t i = 0; i < axis.size; ++i) {
    accumulate(x + i * inner, axes, at + 1, inner, inner_kept,
               axis.summed ? sums : sums + i * inner_kept);
  }
}

template <typename T>
void sum_axes(const T* x, const Axes& axes, int64_t total, float* out, int64_t kept) {
  std::vector<double> sums(static_cast<size_t>(kept), 0.0);
  if (total < 2 * kGrain || axes.empty() || compute_threads() == 1) {
    accumulate(x, axes, 0, total, kept, sums.data());
  } else if (!axes[0].summed) {  // disjoint results
    const int64_t inner = total / axes[0].size, inner_kept = kept / axes[0].size;
    parallel_for(axes[0].size, std::max<int64_t>(1, kGrain / inner),
                 [&](int64_t begin, int64_t end) {
                   Axes part = axes;
                   part[0].size = end - begin;
                   accumulate(x + begin * inner, part, 0, (end - begin) * inner,
                              (end - begin) * inner_kept, sums.data() + begin * inner_kept);
                 });
  } else {  // partial sums of fixed slices: the result does not depend on who is quicker
    const int64_t inner = total / axes[0].size;
    const int64_t slices = std::min<int64_t>(compute_threads(), axes[0].size);
    std::vector<double> parts(static_cast<size_t>(slices * kept), 0.0);
    parallel_for(slices, 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) {
        const int64_t from = axes[0].size * s / slices, to = axes[0].size * (s + 1) / slices;
        Axes part = axes;
        part[0].size = to - from;
        accumulate(x + from * inner, part, 0, (to - from) * inner, kept, parts.data() + s * kept);
      }
    });
    for (int64_t s = 0; s < slices; ++s) {
      for (int64_t i = 0; i < kept; ++i) {
        sums[static_cast<size_t>(i)] += parts[static_cast<size_t>(s * kept + i)];
      }
    }
  }
  std::transform(sums.begin(), sums.end(), out, [](double v) { return static_cast<float>(v); });
}

}  // namespace

Tensor CpuBackend::sum_to(const Tensor& x, const Shape& shape) {
  prepare_threads();
  const auto summed = [&](int axis) { return shape[axis] == 1 && x.dim(axis) != 1; };
  Axes axes;
  if (x.layout() == Layout::kPlain) {
    for (int i = 0; i < x.rank(); ++i) append(axes, x.dim(i), summed(i));
  } else {
    // In memory order channels surround the pixels. Where both are kept the result would not be
    // plain.
    const bool channels_kept = !summed(1) && x.dim(1) != 1;
    const bool pixels_kept = (!summed(2) && x.dim(2) != 1) || (!summed(3) && x.dim(3) != 1);
    if (channels_kept && pixels_kept) return sum_to(x.plain(), shape);
    const ChannelView v = channel_view(x);
    append(axes, v.outer, summed(0));
    append(axes, v.blocks, summed(1));
    append(axes, x.dim(2), summed(2));
    append(axes, x.dim(3), summed(3));
    append(axes, v.lanes, summed(1));
  }
  const Tensor activation = x.dtype() == Dtype::kBF16 ? x : x.to(Dtype::kF32);
  Tensor result = Tensor::empty(shape);
  if (x.numel() == 0) {
    result.fill(0.0f);
    return result;
  }
  with_activation_type(activation.dtype(), [&]<typename T>(T*) {
    sum_axes(activation.data<T>(), axes, x.numel(), result.data<float>(), shape.numel());
  });
  return result;
}

Tensor CpuBackend::softmax_cross_entropy(const Tensor& logits, const Tensor& targets,
                                         const CrossEntropySpec& spec, Tensor& probs) {
  prepare_threads();
  const Tensor scores = as(logits, Dtype::kF32, Layout::kPlain);
  const int64_t batch = scores.dim(0), classes = scores.dim(1);
  probs = Tensor::empty(scores.shape());
  Tensor losses = Tensor::empty({batch});
  const float* s = scores.data<float>();
  float* p = probs.data<float>();
  float* loss = losses.data<float>();
  const bool indices = targets.dtype() == Dtype::kI32;
  const int32_t* label = indices ? targets.data<int32_t>() : nullptr;
  const float* target = indices ? nullptr : targets.data<float>();
  for (int64_t b = 0; indices && b < batch; ++b) {
    if ((label[b] < 0 || label[b] >= classes) && label[b] != spec.ignore) {
      fail("a label is not in [0, " + std::to_string(classes) + ")", "softmax_cross_entropy",
           "check the labels and the number of classes");
    }
  }
  parallel_for(batch, std::max<int64_t>(1, 4096 / classes), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const float* row = s + b * classes;
      float* out = p + b * classes;
      const float top = *std::max_element(row, row + classes);
      double sum = 0;
      for (int64_t k = 0; k < classes; ++k) {
        out[k] = std::exp(row[k] - top);
        sum += static_cast<double>(out[k]);
      }
      const auto scale = static_cast<float>(1.0 / sum);
      for (int64_t k = 0; k < classes; ++k) out[k] *= scale;
      // sum_k t_k (log sum - (row_k - top)), t the target.
      double weight = 1, score = 0;
      if (!indices) {
        weight = 0;
        for (int64_t k = 0; k < classes; ++k) {
          const auto t = static_cast<double>(target[b * classes + k]);
          weight += t;
          score += t * static_cast<double>(row[k] - top);
        }
      } else if (label[b] == spec.ignore) {
        weight = 0;
      } else {
        score = static_cast<double>((1.0f - spec.smoothing) * (row[label[b]] - top));
        if (spec.smoothing > 0) {
          double all = 0;
          for (int64_t k = 0; k < classes; ++k) all += static_cast<double>(row[k] - top);
          score += static_cast<double>(spec.smoothing) * all / static_cast<double>(classes);
        }
      }
      loss[b] = static_cast<float>(weight * std::log(sum) - score);
    }
  });
  return losses;
}

Tensor CpuBackend::softmax_cross_entropy_grad(const Tensor& probs, const Tensor& targets,
                                              const CrossEntropySpec& spec, const Tensor& weight,
                                              Dtype logits_dtype) {
  prepare_threads();
  const int64_t batch = probs.dim(0), classes = probs.dim(1);
  Tensor grad = Tensor::empty(probs.shape());
  const float* p = probs.data<float>();
  const float* w = weight.data<float>();
  float* g = grad.data<float>();
  const bool indices = targets.dtype() == Dtype::kI32;
  const int32_t* label = indices ? targets.data<int32_t>() : nullptr;
  const float* target = indices ? nullptr : targets.data<float>();
  const float rest = spec.smoothing / static_cast<float>(classes);
  parallel_for(batch, std::max<int64_t>(1, kGrain / classes), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const float* row = p + b * classes;
      float* out = g + b * classes;
      if (!indices) {
        const float* t = target + b * classes;
        const float total = std::accumulate(t, t + classes, 0.0f);
        for (int64_t k = 0; k < classes; ++k) out[k] = w[b] * (total * row[k] - t[k]);
      } else if (label[b] == spec.ignore) {
        std::fill_n(out, classes, 0.0f);
      } else {
        for (int64_t k = 0; k < classes; ++k) out[k] = w[b] * (row[k] - rest);
        out[label[b]] -= w[b] * (1.0f - spec.smoothing);
      }
    }
  });
  return grad.to(logits_dtype);
}

}  // namespace ens::cpu
