// SPDX-License-Identifier: Apache-2.0
// What transformers need beside matrix products: softmax and layer normalisation of rows, and
// permuted axes.
#include "nn/cpu/sequence.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/threads.h"
#include "nn/cpu/cpu_backend.h"
#include "nn/cpu/dnnl_util.h"
#include "nn/cpu/simd.h"

namespace ens::cpu {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements that are worth a thread

int64_t rows_of_grain(int64_t columns) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, columns));
}

// Sums in 16 lanes, so that the loop vectorises.
template <typename F>
ENS_INLINE float lane_sum(int64_t n, F f) {
  float lanes[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
#pragma omp simd
    for (int64_t k = 0; k < 16; ++k) lanes[k] += f(i + k);
  }
  for (; i < n; ++i) lanes[i % 16] += f(i);
  float total = 0;
  for (const float lane : lanes) total += lane;
  return total;
}

template <typename T>
ENS_INLINE float largest(const T* x, int64_t n) {
  float lanes[16];
  std::fill_n(lanes, 16, -INFINITY);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
#pragma omp simd
    for (int64_t k = 0; k < 16; ++k) {
      const float v = load(x[i + k]);
      lanes[k] = v > lanes[k] ? v : lanes[k];
    }
  }
  for (; i < n; ++i) lanes[i % 16] = std::max(lanes[i % 16], load(x[i]));
  return *std::max_element(lanes, lanes + 16);
}

// Of the first `counted` of n elements; `scratch` has room for them.
template <typename T>
ENS_INLINE void softmax_body(const T* x, T* y, int64_t counted, int64_t n, float* scratch) {
  const float top = largest(x, counted);
#pragma omp simd
  for (int64_t i = 0; i < counted; ++i) scratch[i] = fast_exp(load(x[i]) - top);
  const float scale =
      1.0f / lane_sum(counted, [=](int64_t i) ENS_INLINE_LAMBDA { return scratch[i]; });
#pragma omp simd
  for (int64_t i = 0; i < counted; ++i) store(y + i, scratch[i] * scale);
  for (int64_t i = counted; i < n; ++i) store(y + i, 0.0f);
}
ENS_CLONES void softmax_row(const float* x, float* y, int64_t counted, int64_t n, float* scratch) {
  softmax_body(x, y, counted, n, scratch);
}
ENS_CLONES void softmax_row(const BFloat16* x, BFloat16* y, int64_t counted, int64_t n,
                            float* scratch) {
  softmax_body(x, y, counted, n, scratch);
}

template <typename T>
ENS_INLINE void softmax_grad_body(const T* y, const T* dy, T* dx, int64_t n) {
  const float dot =
      lane_sum(n, [=](int64_t i) ENS_INLINE_LAMBDA { return load(y[i]) * load(dy[i]); });
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(dx + i, load(y[i]) * (load(dy[i]) - dot));
}
ENS_CLONES void softmax_grad_row(const float* y, const float* dy, float* dx, int64_t n) {
  softmax_grad_body(y, dy, dx, n);
}
ENS_CLONES void softmax_grad_row(const BFloat16* y, const BFloat16* dy, BFloat16* dx, int64_t n) {
  softmax_grad_body(y, dy, dx, n);
}

template <typename T>
ENS_INLINE void norm_body(const T* x, const float* gamma, const float* beta, T* y, int64_t n,
                          float eps, float& mean, float& rstd) {
  const float m =
      lane_sum(n, [=](int64_t i) ENS_INLINE_LAMBDA { return load(x[i]); }) / static_cast<float>(n);
  const float var = lane_sum(n,
                             [=](int64_t i) ENS_INLINE_LAMBDA {
                               const float d = load(x[i]) - m;
                               return d * d;
                             }) /
                    static_cast<float>(n);
  const float r = 1.0f / std::sqrt(var + eps);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(y + i, (load(x[i]) - m) * r * gamma[i] + beta[i]);
  mean = m;
  rstd = r;
}
ENS_CLONES void norm_row(const float* x, const float* gamma, const float* beta, float* y, int64_t n,
                         float eps, float& mean, float& rstd) {
  norm_body(x, gamma, beta, y, n, eps, mean, rstd);
}
ENS_CLONES void norm_row(const BFloat16* x, const float* gamma, const float* beta, BFloat16* y,
                         int64_t n, float eps, float& mean, float& rstd) {
  norm_body(x, gamma, beta, y, n, eps, mean, rstd);
}

// dx = (g - mean(g) - xhat mean(g xhat)) rstd, with g = dy gamma; adds to dgamma and dbeta.
template <typename T>
ENS_INLINE void norm_grad_body(const T* dy, const T* x, const float* gamma, T* dx, int64_t n,
                               float mean, float rstd, float* dgamma, float* dbeta) {
  const float g = lane_sum(n, [=](int64_t i) ENS_INLINE_LAMBDA { return load(dy[i]) * gamma[i]; }) /
                  static_cast<float>(n);
  const float gx = lane_sum(n,
                            [=](int64_t i) ENS_INLINE_LAMBDA {
                              return load(dy[i]) * gamma[i] * (load(x[i]) - mean) * rstd;
                            }) /
                   static_cast<float>(n);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float d = load(dy[i]), normal = (load(x[i]) - mean) * rstd;
    store(dx + i, (d * gamma[i] - g - normal * gx) * rstd);
    dgamma[i] += d * normal;
    dbeta[i] += d;
  }
}
ENS_CLONES void norm_grad_row(const float* dy, const float* x, const float* gamma, float* dx,
                              int64_t n, float mean, float rstd, float* dgamma, float* dbeta) {
  norm_grad_body(dy, x, gamma, dx, n, mean, rstd, dgamma, dbeta);
}
ENS_CLONES void norm_grad_row(const BFloat16* dy, const BFloat16* x, const float* gamma,
                              BFloat16* dx, int64_t n, float mean, float rstd, float* dgamma,
                              float* dbeta) {
  norm_grad_body(dy, x, gamma, dx, n, mean, rstd, dgamma, dbeta);
}

// Activations as the kernels want them: float32 or bfloat16, plain.
Tensor rows_of(const Tensor& x) {
  return as(x, x.dtype() == Dtype::kBF16 ? Dtype::kBF16 : Dtype::kF32, Layout::kPlain);
}

// Copies the elements of one result axis after the other; strides of the source.
struct Axis {
  int64_t size, stride;
};
template <typename Word>
void permute_words(const Word* from, Word* to, const std::vector<Axis>& axes) {
  const Axis outer = axes.front();
  int64_t inner = 1;
  for (size_t i = 1; i < axes.size(); ++i) inner *= axes[i].size;
  parallel_for(outer.size, std::max<int64_t>(1, kGrain / inner), [&](int64_t begin, int64_t end) {
    std::array<int64_t, Shape::kMaxRank> at{};
    const Axis last = axes.back();
    const int64_t rows = axes.size() == 1 ? 1 : inner / last.size;
    for (int64_t o = begin; o < end; ++o) {
      if (axes.size() == 1) {
        to[o] = from[o * outer.stride];
        continue;
      }
      const Word* source = from + o * outer.stride;
      Word* target = to + o * inner;
      at.fill(0);
      for (int64_t r = 0; r < rows; ++r, target += last.size) {
        int64_t offset = 0;
        for (size_t i = 1; i + 1 < axes.size(); ++i) offset += at[i] * axes[i].stride;
        const Word* row = source + offset;
        if (last.stride == 1) {
          std::memcpy(target, row, static_cast<size_t>(last.size) * sizeof(Word));
        } else {
          for (int64_t k = 0; k < last.size; ++k) target[k] = row[k * last.stride];
        }
        for (size_t i = axes.size() - 2; i >= 1; --i) {
          if (++at[i] < axes[i].size) break;
          at[i] = 0;
        }
      }
    }
  });
}

}  // namespace

void layer_norm_rows(Dtype dtype, const void* x, const float* gamma, const float* beta, void* y,
                     int64_t rows, int64_t width, float eps, float* mean, float* rstd) {
  with_activation_type(dtype, [&]<typename T>(T*) {
    const auto* from = static_cast<const T*>(x);
    auto* to = static_cast<T*>(y);
    parallel_for(rows, rows_of_grain(width), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        float m, s;
        norm_row(from + r * width, gamma, beta, to + r * width, width, eps, m, s);
        if (mean) mean[r] = m, rstd[r] = s;
      }
    });
  });
}

void attend(Dtype dtype, const void* qkv, void* y, int64_t batch, int heads, TokenShape shape) {
  const int64_t tokens = shape.tokens, width = shape.width, each = width / heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(each));
  with_activation_type(dtype, [&]<typename T>(T*) {
    const auto* from = static_cast<const T*>(qkv);
    auto* to = static_cast<T*>(y);
    parallel_for(batch * heads, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> memory(static_cast<size_t>(4 * tokens * each + tokens * tokens + tokens));
      float *q = memory.data(), *k = q + tokens * each, *v = k + tokens * each;
      float *out = v + tokens * each, *scores = out + tokens * each,
            *scratch = scores + tokens * tokens;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / heads, offset = i % heads * each;
        for (int64_t t = 0; t < tokens; ++t) {
          const T* row = from + (b * tokens + t) * 3 * width + offset;
          for (int64_t d = 0; d < each; ++d) {
            q[t * each + d] = load(row[d]);
            k[t * each + d] = load(row[width + d]);
            v[t * each + d] = load(row[2 * width + d]);
          }
        }
        dnnl_sgemm('N', 'T', tokens, tokens, each, scale, q, each, k, each, 0.0f, scores, tokens);
        for (int64_t t = 0; t < tokens; ++t) {
          softmax_row(scores + t * tokens, scores + t * tokens, tokens, tokens, scratch);
        }
        dnnl_sgemm('N', 'N', tokens, each, tokens, 1.0f, scores, tokens, v, each, 0.0f, out, each);
        for (int64_t t = 0; t < tokens; ++t) {
          T* row = to + (b * tokens + t) * width + offset;
          for (int64_t d = 0; d < each; ++d) store(row + d, out[t * each + d]);
        }
      }
    });
  });
}

void place_tokens(Dtype dtype, const void* x, const float* first, const float* positions, void* y,
                  int64_t batch, TokenShape shape) {
  const int64_t tokens = shape.tokens, width = shape.width;
  with_activation_type(dtype, [&]<typename T>(T*) {
    const auto* from = static_cast<const T*>(x);
    auto* to = static_cast<T*>(y);
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t t = 0; t < tokens; ++t) {
        const float* place = positions + t * width;
        T* row = to + (b * tokens + t) * width;
        if (t == 0) {
          for (int64_t d = 0; d < width; ++d) store(row + d, first[d] + place[d]);
        } else {
          const T* source = from + (b * (tokens - 1) + t - 1) * width;
          for (int64_t d = 0; d < width; ++d) store(row + d, load(source[d]) + place[d]);
        }
      }
    }
  });
}

Tensor CpuBackend::softmax(const Tensor& given, const SoftmaxMask& mask) {
  prepare_threads();
  const Tensor x = rows_of(given);
  Tensor y = Tensor::empty(x.shape(), x.dtype());
  if (x.numel() == 0) return y;
  const int64_t columns = x.dim(x.rank() - 1), rows = x.numel() / columns;
  const int64_t queries = x.dim(x.rank() - 2), of_batch = rows / x.dim(0);
  const int32_t* lengths = mask.lengths.defined() ? mask.lengths.data<int32_t>() : nullptr;
  with_activation_type(x.dtype(), [&]<typename T>(T*) {
    const T* from = x.data<T>();
    T* to = y.data<T>();
    parallel_for(rows, rows_of_grain(columns), [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(static_cast<size_t>(columns));
      for (int64_t r = begin; r < end; ++r) {
        int64_t counted =
            lengths ? std::clamp<int64_t>(lengths[r / of_batch], 0, columns) : columns;
        if (mask.causal) {
          counted = std::clamp<int64_t>(r % queries + 1 + columns - queries, 0, counted);
        }
        softmax_row(from + r * columns, to + r * columns, counted, columns, scratch.data());
      }
    });
  });
  return y.to(given.dtype());
}

Tensor CpuBackend::softmax_grad(const Tensor& given, const Tensor& given_dy) {
  prepare_threads();
  const Tensor y = rows_of(given), dy = as(given_dy, y.dtype(), Layout::kPlain);
  Tensor dx = Tensor::empty(y.shape(), y.dtype());
  if (y.numel() == 0) return dx;
  const int64_t columns = y.dim(y.rank() - 1);
  with_activation_type(y.dtype(), [&]<typename T>(T*) {
    const T *py = y.data<T>(), *pd = dy.data<T>();
    T* to = dx.data<T>();
    parallel_for(y.numel() / columns, rows_of_grain(columns), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        softmax_grad_row(py + r * columns, pd + r * columns, to + r * columns, columns);
      }
    });
  });
  return dx.to(given.dtype());
}

Tensor CpuBackend::layer_norm(const Tensor& given, const Tensor& gamma, const Tensor& beta,
                              float eps, LayerNormSaved& saved) {
  prepare_threads();
  const Tensor x = rows_of(given);
  const int64_t columns = gamma.dim(0), rows = x.numel() / columns;
  Tensor y = Tensor::empty(x.shape(), x.dtype());
  saved = {Tensor::empty({rows}), Tensor::empty({rows})};
  layer_norm_rows(x.dtype(), x.raw(), gamma.data<float>(), beta.data<float>(), y.raw(), rows,
                  columns, eps, saved.mean.data<float>(), saved.rstd.data<float>());
  return y.to(given.dtype());
}

LayerNormGrads CpuBackend::layer_norm_grad(const Tensor& given_dy, const Tensor& given,
                                           const Tensor& gamma, const LayerNormSaved& saved) {
  prepare_threads();
  const Tensor x = rows_of(given), dy = as(given_dy, x.dtype(), Layout::kPlain);
  const int64_t columns = gamma.dim(0), rows = x.numel() / columns;
  Tensor dx = Tensor::empty(x.shape(), x.dtype());
  // Partial sums of fixed slices: the result does not depend on who is quicker.
  const int64_t slices = std::clamp<int64_t>(rows / rows_of_grain(columns), 1, compute_threads());
  const Tensor dgamma = Tensor::zeros({slices, columns}), dbeta = Tensor::zeros({slices, columns});
  with_activation_type(x.dtype(), [&]<typename T>(T*) {
    const T *px = x.data<T>(), *pd = dy.data<T>();
    T* to = dx.data<T>();
    const float *mean = saved.mean.data<float>(), *rstd = saved.rstd.data<float>();
    const float* g = gamma.data<float>();
    float *dg = dgamma.data<float>(), *db = dbeta.data<float>();
    parallel_for(slices, 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) {
        for (int64_t r = rows * s / slices; r < rows * (s + 1) / slices; ++r) {
          norm_grad_row(pd + r * columns, px + r * columns, g, to + r * columns, columns, mean[r],
                        rstd[r], dg + s * columns, db + s * columns);
        }
      }
    });
  });
  return {dx.to(given.dtype()), sum_to(dgamma, {1, columns}).reshape(gamma.shape()),
          sum_to(dbeta, {1, columns}).reshape(gamma.shape())};
}

Tensor CpuBackend::permute(const Tensor& given, std::span<const int> order) {
  prepare_threads();
  const Tensor x = given.plain();
  Shape shape = x.shape();
  std::array<int64_t, Shape::kMaxRank> strides{};
  int64_t stride = 1;
  for (int i = x.rank() - 1; i >= 0; --i) {
    strides[static_cast<size_t>(i)] = stride;
    stride *= x.dim(i);
  }
  // Neighbours that stay neighbours are one axis.
  std::vector<Axis> axes;
  for (int i = 0; i < x.rank(); ++i) {
    const int from = order[static_cast<size_t>(i)];
    shape.set(i, x.dim(from));
    const Axis axis{x.dim(from), strides[static_cast<size_t>(from)]};
    if (axis.size == 1) continue;
    if (!axes.empty() && axes.back().stride == axis.stride * axis.size) {
      axes.back() = {axes.back().size * axis.size, axis.stride};
    } else {
      axes.push_back(axis);
    }
  }
  Tensor y = Tensor::empty(shape, x.dtype());
  if (y.numel() == 0) return y;
  if (axes.empty()) axes.push_back({1, 1});
  const auto size = static_cast<int64_t>(x.bytes()) / x.numel();
  if (size == 4) {
    permute_words(static_cast<const uint32_t*>(x.raw()), static_cast<uint32_t*>(y.raw()), axes);
  } else if (size == 2) {
    permute_words(static_cast<const uint16_t*>(x.raw()), static_cast<uint16_t*>(y.raw()), axes);
  } else {
    permute_words(static_cast<const uint8_t*>(x.raw()), static_cast<uint8_t*>(y.raw()), axes);
  }
  return y;
}

Tensor CpuBackend::gather(const Tensor& given, const Tensor& ids) {
  prepare_threads();
  const Tensor table = rows_of(given);
  const int64_t rows = table.dim(0), width = table.dim(1), n = ids.numel();
  Tensor y = Tensor::empty({n, width}, table.dtype());
  const int32_t* at = ids.data<int32_t>();
  with_activation_type(table.dtype(), [&]<typename T>(T*) {
    const T* from = table.data<T>();
    T* to = y.data<T>();
    parallel_for(n, rows_of_grain(width), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (at[i] >= 0 && at[i] < rows) {
          std::copy_n(from + at[i] * width, width, to + i * width);
        } else {
          for (int64_t d = 0; d < width; ++d) store(to + i * width + d, NAN);
        }
      }
    });
  });
  return y.to(given.dtype());
}

Tensor CpuBackend::gather_grad(const Tensor& given, const Tensor& ids, int64_t rows, int32_t none) {
  prepare_threads();
  const Tensor dy = rows_of(given);
  const int64_t width = dy.dim(1), n = ids.numel();
  Tensor sum = Tensor::zeros({rows, width});
  const int32_t* at = ids.data<int32_t>();
  float* to = sum.data<float>();
  with_activation_type(dy.dtype(), [&]<typename T>(T*) {
    const T* from = dy.data<T>();
    // Each thread has columns of its own, and walks the rows in their order.
    parallel_for(width, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, n)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = 0; i < n; ++i) {
                     if (at[i] < 0 || at[i] >= rows || at[i] == none) continue;
                     float* row = to + at[i] * width;
                     const T* more = from + i * width;
                     for (int64_t d = begin; d < end; ++d) row[d] += load(more[d]);
                   }
                 });
  });
  return sum;
}

}  // namespace ens::cpu
