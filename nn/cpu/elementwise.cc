// SPDX-License-Identifier: Apache-2.0
// Elementwise verbs and optimiser updates. They work in memory order: the layout does not matter
// once all operands agree.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/threads.h"
#include "nn/cpu/cpu_backend.h"
#include "nn/cpu/simd.h"

namespace ens::cpu {
namespace {

constexpr int64_t kGrain = 1 << 15;

template <typename X, typename Y, typename F>
ENS_INLINE void map1(const X* x, Y* y, int64_t n, F f) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(y + i, f(load(x[i])));
}

template <typename T, typename F>
ENS_INLINE void map2(const T* a, const T* b, T* y, int64_t n, F f) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(y + i, f(load(a[i]), load(b[i])));
}

// As map2. GCC does not vectorise long functions together with bfloat16's conversions, so these are
// loops of their own.
template <typename T, typename F>
ENS_INLINE void in_chunks(const T* a, const T* b, T* y, int64_t n, F f) {
  constexpr int64_t kChunk = 128;
  for (int64_t start = 0; start < n; start += kChunk) {
    const int64_t count = std::min(kChunk, n - start);
    float u[kChunk], v[kChunk];
    map1(a + start, u, count, [](float x) ENS_INLINE_LAMBDA { return x; });
    map1(b + start, v, count, [](float x) ENS_INLINE_LAMBDA { return x; });
    map2(u, v, u, count, f);
    map1(u, y + start, count, [](float x) ENS_INLINE_LAMBDA { return x; });
  }
}

ENS_INLINE float tanh_of(float x) {
  const float e = fast_exp(2.0f * std::fabs(x));
  const float big = 1.0f - 2.0f / (e + 1.0f);
  const float s = x * x;  // Taylor where the formula above cancels
  const float small =
      std::fabs(x) *
      (1.0f + s * (-1.0f / 3 + s * (2.0f / 15 + s * (-17.0f / 315 + s * (62.0f / 2835)))));
  return std::copysign(std::fabs(x) < 0.3f ? small : big, x);
}

// The standard normal distribution function to 1e-7, from its density times sqrt(2 pi), `e`:
// Abramowitz and Stegun, 7.1.26.
ENS_INLINE float normal_distribution(float x, float e) {
  const float t = 1.0f / (1.0f + 0.23164190f * std::fabs(x));
  const float p =
      t * (0.254829592f +
           t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  return 0.5f + std::copysign(0.5f - 0.5f * e * p, x);
}
ENS_INLINE float gelu_of(float x) { return x * normal_distribution(x, fast_exp(-0.5f * x * x)); }
ENS_INLINE float gelu_slope(float x) {
  const float e = fast_exp(-0.5f * x * x);
  return normal_distribution(x, e) + x * 0.39894228f * e;
}

template <typename T>
ENS_INLINE void unary_body(UnaryOp op, const T* x, T* y, int64_t n, float a, float b) {
  switch (op) {
    case UnaryOp::kAffine:
      return map1(x, y, n, [=](float v) ENS_INLINE_LAMBDA { return a * v + b; });
    case UnaryOp::kRelu:  // NaN stays NaN
      return map1(x, y, n, [](float v) ENS_INLINE_LAMBDA { return v < 0.0f ? 0.0f : v; });
    case UnaryOp::kLeakyRelu:
      return map1(x, y, n, [=](float v) ENS_INLINE_LAMBDA { return v > 0.0f ? v : a * v; });
    case UnaryOp::kSigmoid:
      return map1(x, y, n, [](float v) ENS_INLINE_LAMBDA { return 1.0f / (1.0f + fast_exp(-v)); });
    case UnaryOp::kTanh:
      return map1(x, y, n, [](float v) ENS_INLINE_LAMBDA { return tanh_of(v); });
    case UnaryOp::kExp:
      return map1(x, y, n, [](float v) ENS_INLINE_LAMBDA { return fast_exp(v); });
    case UnaryOp::kLog:
      for (int64_t i = 0; i < n; ++i) store(y + i, std::log(load(x[i])));
      return;
    case UnaryOp::kSqrt:
      return map1(x, y, n, [](float v) ENS_INLINE_LAMBDA { return std::sqrt(v); });
    case UnaryOp::kSquare:
      return map1(x, y, n, [](float v) ENS_INLINE_LAMBDA { return v * v; });
    case UnaryOp::kAbs:
      return map1(x, y, n, [](float v) ENS_INLINE_LAMBDA { return std::fabs(v); });
    case UnaryOp::kGelu:
      return in_chunks(x, x, y, n, [](float v, float) ENS_INLINE_LAMBDA { return gelu_of(v); });
  }
}
ENS_CLONES void unary_range(UnaryOp op, const float* x, float* y, int64_t n, float a, float b) {
  unary_body(op, x, y, n, a, b);
}
ENS_CLONES void unary_range(UnaryOp op, const BFloat16* x, BFloat16* y, int64_t n, float a,
                            float b) {
  unary_body(op, x, y, n, a, b);
}

// Whether a gradient is computed from y = f(x) rather than from x.
bool from_result(UnaryOp op) {
  return op == UnaryOp::kRelu || op == UnaryOp::kSigmoid || op == UnaryOp::kTanh ||
         op == UnaryOp::kExp || op == UnaryOp::kSqrt;
}

// v is y if from_result(op), else x; g the incoming gradient.
template <typename T>
ENS_INLINE void unary_grad_body(UnaryOp op, const T* v, const T* g, T* dx, int64_t n, float a) {
  switch (op) {
    case UnaryOp::kAffine:
      return map1(g, dx, n, [=](float d) ENS_INLINE_LAMBDA { return a * d; });
    case UnaryOp::kRelu:
      return map2(v, g, dx, n,
                  [](float y, float d) ENS_INLINE_LAMBDA { return y > 0.0f ? d : 0.0f; });
    case UnaryOp::kLeakyRelu:
      return map2(v, g, dx, n,
                  [=](float x, float d) ENS_INLINE_LAMBDA { return x > 0.0f ? d : a * d; });
    case UnaryOp::kSigmoid:
      return map2(v, g, dx, n,
                  [](float y, float d) ENS_INLINE_LAMBDA { return d * y * (1.0f - y); });
    case UnaryOp::kTanh:
      return map2(v, g, dx, n,
                  [](float y, float d) ENS_INLINE_LAMBDA { return d * (1.0f - y * y); });
    case UnaryOp::kExp:
      return map2(v, g, dx, n, [](float y, float d) ENS_INLINE_LAMBDA { return d * y; });
    case UnaryOp::kLog:
      return map2(v, g, dx, n, [](float x, float d) ENS_INLINE_LAMBDA { return d / x; });
    case UnaryOp::kSqrt:
      return map2(v, g, dx, n, [](float y, float d) ENS_INLINE_LAMBDA { return 0.5f * d / y; });
    case UnaryOp::kSquare:
      return map2(v, g, dx, n, [](float x, float d) ENS_INLINE_LAMBDA { return 2.0f * x * d; });
    case UnaryOp::kAbs:
      return map2(v, g, dx, n, [](float x, float d) ENS_INLINE_LAMBDA {
        return x > 0.0f ? d : (x < 0.0f ? -d : 0.0f);
      });
    case UnaryOp::kGelu:
      return in_chunks(v, g, dx, n,
                       [](float x, float d) ENS_INLINE_LAMBDA { return d * gelu_slope(x); });
  }
}
ENS_CLONES void unary_grad_range(UnaryOp op, const float* v, const float* g, float* dx, int64_t n,
                                 float a) {
  unary_grad_body(op, v, g, dx, n, a);
}
ENS_CLONES void unary_grad_range(UnaryOp op, const BFloat16* v, const BFloat16* g, BFloat16* dx,
                                 int64_t n, float a) {
  unary_grad_body(op, v, g, dx, n, a);
}

// Strides of a and b: 1 for a run of elements, 0 for one value repeated.
template <typename T, typename F>
ENS_INLINE void binary_rows(const T* a, int64_t sa, const T* b, int64_t sb, T* y, int64_t n, F f) {
  if (sa == 1 && sb == 1) return map2(a, b, y, n, f);
  const float a0 = load(a[0]), b0 = load(b[0]);
  if (sa == 1) return map1(a, y, n, [=](float v) ENS_INLINE_LAMBDA { return f(v, b0); });
  if (sb == 1) return map1(b, y, n, [=](float v) ENS_INLINE_LAMBDA { return f(a0, v); });
  for (int64_t i = 0; i < n; ++i) store(y + i, f(a0, b0));
}

template <typename T>
ENS_INLINE void binary_body(BinaryOp op, const T* a, int64_t sa, const T* b, int64_t sb, T* y,
                            int64_t n) {
  switch (op) {
    case BinaryOp::kAdd:
      return binary_rows(a, sa, b, sb, y, n,
                         [](float u, float v) ENS_INLINE_LAMBDA { return u + v; });
    case BinaryOp::kSub:
      return binary_rows(a, sa, b, sb, y, n,
                         [](float u, float v) ENS_INLINE_LAMBDA { return u - v; });
    case BinaryOp::kMul:
      return binary_rows(a, sa, b, sb, y, n,
                         [](float u, float v) ENS_INLINE_LAMBDA { return u * v; });
    case BinaryOp::kDiv:
      return binary_rows(a, sa, b, sb, y, n,
                         [](float u, float v) ENS_INLINE_LAMBDA { return u / v; });
    case BinaryOp::kAddRelu:
      return binary_rows(a, sa, b, sb, y, n, [](float u, float v) ENS_INLINE_LAMBDA {
        const float s = u + v;
        return s < 0.0f ? 0.0f : s;
      });
  }
}
ENS_CLONES void binary_range(BinaryOp op, const float* a, int64_t sa, const float* b, int64_t sb,
                             float* y, int64_t n) {
  binary_body(op, a, sa, b, sb, y, n);
}
ENS_CLONES void binary_range(BinaryOp op, const BFloat16* a, int64_t sa, const BFloat16* b,
                             int64_t sb, BFloat16* y, int64_t n) {
  binary_body(op, a, sa, b, sb, y, n);
}

ENS_CLONES void axpy_range(float alpha, const float* x, float* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] += alpha * x[i];
}
ENS_CLONES void axpy_range(float alpha, const BFloat16* x, BFloat16* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(y + i, load(y[i]) + alpha * load(x[i]));
}
ENS_CLONES void axpy_range(float alpha, const BFloat16* x, float* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] += alpha * load(x[i]);
}

// Plain operands of equal rank, any sizes of 1 broadcast.
Tensor broadcast(BinaryOp op, const Tensor& a, const Tensor& b) {
  const int rank = a.rank();
  Shape shape = a.shape();
  for (int i = 0; i < rank; ++i) {
    if (a.dim(i) == 1) shape.set(i, b.dim(i));
  }
  Tensor y = Tensor::empty(shape, a.dtype());
  if (y.numel() == 0) return y;
  // Neighbouring axes along which both operands go on in the same way are one.
  struct Axis {
    int64_t size, sa, sb;
  };
  Axis axes[Shape::kMaxRank + 1];
  int count = 0;
  int64_t sa = a.numel(), sb = b.numel();
  for (int i = 0; i < rank; ++i) {
    sa /= a.dim(i);
    sb /= b.dim(i);
    if (shape[i] == 1) continue;
    const Axis axis{shape[i], a.dim(i) == 1 ? 0 : sa, b.dim(i) == 1 ? 0 : sb};
    Axis* last = count ? &axes[count - 1] : nullptr;
    if (last && last->sa == axis.sa * axis.size && last->sb == axis.sb * axis.size) {
      *last = {last->size * axis.size, axis.sa, axis.sb};
    } else {
      axes[count++] = axis;
    }
  }
  if (count == 0) axes[count++] = {1, 0, 0};
  const Axis inner = axes[count - 1];
  const int64_t rows = y.numel() / inner.size;
  with_activation_type(a.dtype(), [&]<typename T>(T*) {
    const T* pa = a.data<T>();
    const T* pb = b.data<T>();
    T* py = y.data<T>();
    parallel_for(rows, std::max<int64_t>(1, kGrain / inner.size), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        int64_t rest = r, ia = 0, ib = 0;
        for (int i = count - 2; i >= 0; --i) {
          const int64_t at = rest % axes[i].size;
          rest /= axes[i].size;
          ia += at * axes[i].sa;
          ib += at * axes[i].sb;
        }
        // The innermost stride is 0 or 1: the tensors are plain.
        binary_range(op, pa + ia, inner.sa, pb + ib, inner.sb, py + r * inner.size, inner.size);
      }
    });
  });
  return y;
}

ENS_CLONES void sgd_range(float* p, const float* g, float* m, int64_t n, float lr,
                          const SgdStep& s) {
  const float momentum = s.momentum, decay = s.weight_decay;
  const float g_part = s.nesterov ? 1.0f : 0.0f, m_part = s.nesterov ? momentum : 1.0f;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float d = g[i] + decay * p[i];
    const float v = momentum * m[i] + d;
    m[i] = v;
    p[i] -= lr * (g_part * d + m_part * v);
  }
}

ENS_CLONES void sgd_plain_range(float* p, const float* g, int64_t n, float lr, float decay) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) p[i] -= lr * (g[i] + decay * p[i]);
}

struct AdamFactors {
  float keep;  // of the weight (decoupled decay)
  float l2;    // of the weight, added to the gradient
  float beta1, beta2;
  float step_size;  // lr / (1 - beta1^t)
  float root;       // 1 / sqrt(1 - beta2^t)
  float eps;
};

template <bool kAmsgrad>
ENS_INLINE void adam_body(float* p, const float* g, float* m, float* v, float* top, int64_t n,
                          const AdamFactors& factors) {
  const AdamFactors f = factors;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float d = g[i] + f.l2 * p[i];
    m[i] = f.beta1 * m[i] + (1.0f - f.beta1) * d;
    v[i] = f.beta2 * v[i] + (1.0f - f.beta2) * d * d;
    float square = v[i];
    if constexpr (kAmsgrad) {
      square = top[i] > square ? top[i] : square;
      top[i] = square;
    }
    p[i] = f.keep * p[i] - f.step_size * m[i] / (std::sqrt(square) * f.root + f.eps);
  }
}
ENS_CLONES void adam_range(float* p, const float* g, float* m, float* v, int64_t n,
                           const AdamFactors& f) {
  adam_body<false>(p, g, m, v, nullptr, n, f);
}
ENS_CLONES void amsgrad_range(float* p, const float* g, float* m, float* v, float* top, int64_t n,
                              const AdamFactors& f) {
  adam_body<true>(p, g, m, v, top, n, f);
}

}  // namespace

Tensor CpuBackend::unary(UnaryOp op, const Tensor& x, float a, float b) {
  prepare_threads();
  Tensor y = Tensor::empty_like(x);
  with_activation_type(x.dtype(), [&]<typename T>(T*) {
    const T* px = x.data<T>();
    T* py = y.data<T>();
    parallel_for(x.numel(), kGrain, [&](int64_t begin, int64_t end) {
      unary_range(op, px + begin, py + begin, end - begin, a, b);
    });
  });
  return y;
}

Tensor CpuBackend::unary_grad(UnaryOp op, const Tensor& x, const Tensor& y, const Tensor& dy,
                              float a, float) {
  prepare_threads();
  const Dtype dtype = x.defined() ? x.dtype() : dy.dtype();
  const Tensor g = dy.to(dtype);
  Tensor v = g;
  if (op != UnaryOp::kAffine) v = as(from_result(op) ? y : x, dtype, g.layout());
  Tensor dx = Tensor::empty_like(g);
  with_activation_type(dtype, [&]<typename T>(T*) {
    const T* pv = v.data<T>();
    const T* pg = g.data<T>();
    T* pdx = dx.data<T>();
    parallel_for(g.numel(), kGrain, [&](int64_t begin, int64_t end) {
      unary_grad_range(op, pv + begin, pg + begin, pdx + begin, end - begin, a);
    });
  });
  return dx;
}

Tensor CpuBackend::binary(BinaryOp op, const Tensor& a, const Tensor& b) {
  prepare_threads();
  Shape one_row = a.shape();
  if (a.rank() > 0) one_row.set(0, 1);
  const bool same = a.shape() == b.shape();
  if (!same && !(a.rank() > 1 && b.shape() == one_row)) {
    return broadcast(op, a.plain(), b.to(a.dtype()).plain());
  }
  // Same shape, or b is repeated along the outermost axis: a's layout is kept.
  const Tensor other = as(b, a.dtype(), a.layout());
  Tensor y = Tensor::empty_like(a);
  with_activation_type(a.dtype(), [&]<typename T>(T*) {
    const T* pa = a.data<T>();
    const T* pb = other.data<T>();
    T* py = y.data<T>();
    const int64_t row = other.numel();
    if (same) {
      parallel_for(row, kGrain, [&](int64_t begin, int64_t end) {
        binary_range(op, pa + begin, 1, pb + begin, 1, py + begin, end - begin);
      });
    } else {
      parallel_for(a.dim(0), std::max<int64_t>(1, kGrain / std::max<int64_t>(row, 1)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t r = begin; r < end; ++r) {
                       binary_range(op, pa + r * row, 1, pb, 1, py + r * row, row);
                     }
                   });
    }
  });
  return y;
}

void CpuBackend::axpy(float alpha, const Tensor& x, Tensor& y) {
  prepare_threads();
  if (x.dtype() == Dtype::kBF16 && y.dtype() == Dtype::kF32 && x.layout() == y.layout()) {
    const BFloat16* px = x.data<BFloat16>();
    float* py = y.data<float>();
    parallel_for(y.numel(), kGrain, [&](int64_t begin, int64_t end) {
      axpy_range(alpha, px + begin, py + begin, end - begin);
    });
    return;
  }
  const Tensor s = as(x, y.dtype(), y.layout());
  with_activation_type(y.dtype(), [&]<typename T>(T*) {
    const T* px = s.data<T>();
    T* py = y.data<T>();
    parallel_for(y.numel(), kGrain, [&](int64_t begin, int64_t end) {
      axpy_range(alpha, px + begin, py + begin, end - begin);
    });
  });
}

void CpuBackend::sgd_step(std::span<const Update> updates, const Tensor& rates, const SgdStep& s) {
  prepare_threads();
  const float lr = rates.data<float>()[0];
  for (const Update& u : updates) {
    float* p = u.param.data<float>();
    const Tensor grad = u.grad.to(Dtype::kF32).plain();
    const float* g = grad.data<float>();
    float* m = u.first.defined() ? u.first.data<float>() : nullptr;
    parallel_for(u.param.numel(), kGrain, [&](int64_t begin, int64_t end) {
      if (m) {
        sgd_range(p + begin, g + begin, m + begin, end - begin, lr, s);
      } else {
        sgd_plain_range(p + begin, g + begin, end - begin, lr, s.weight_decay);
      }
    });
  }
}

void CpuBackend::adam_step(std::span<const Update> updates, const Tensor& rates,
                           const AdamStep& s) {
  prepare_threads();
  const float* rate = rates.data<float>();
  const AdamFactors f{.keep = s.decoupled ? 1.0f - rate[0] * s.weight_decay : 1.0f,
                      .l2 = s.decoupled ? 0.0f : s.weight_decay,
                      .beta1 = s.beta1,
                      .beta2 = s.beta2,
                      .step_size = rate[0] * rate[1],
                      .root = rate[2],
                      .eps = s.eps};
  for (const Update& u : updates) {
    float* p = u.param.data<float>();
    const Tensor grad = u.grad.to(Dtype::kF32).plain();
    const float* g = grad.data<float>();
    float* m = u.first.data<float>();
    float* v = u.second.data<float>();
    float* top = u.max_second.defined() ? u.max_second.data<float>() : nullptr;
    parallel_for(u.param.numel(), kGrain, [&](int64_t begin, int64_t end) {
      if (top) {
        amsgrad_range(p + begin, g + begin, m + begin, v + begin, top + begin, end - begin, f);
      } else {
        adam_range(p + begin, g + begin, m + begin, v + begin, end - begin, f);
      }
    });
  }
}

}  // namespace ens::cpu
