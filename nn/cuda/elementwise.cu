// SPDX-License-Identifier: Apache-2.0
// Elementwise verbs. They work in memory order: the layout does not matter once all operands agree.
#include "nn/cuda/cuda_backend.h"
#include "nn/cuda/kernels.h"

namespace ens::cuda {
namespace {

__device__ float apply(UnaryOp op, float v, float a, float b) {
  switch (op) {
    case UnaryOp::kAffine:
      return a * v + b;
    case UnaryOp::kRelu:  // NaN stays NaN
      return v < 0.0f ? 0.0f : v;
    case UnaryOp::kLeakyRelu:
      return v > 0.0f ? v : a * v;
    case UnaryOp::kSigmoid:
      return 1.0f / (1.0f + expf(-v));
    case UnaryOp::kTanh:
      return tanhf(v);
    case UnaryOp::kExp:
      return expf(v);
    case UnaryOp::kLog:
      return logf(v);
    case UnaryOp::kSqrt:
      return sqrtf(v);
    case UnaryOp::kSquare:
      return v * v;
    case UnaryOp::kAbs:
      return fabsf(v);
    case UnaryOp::kGelu:
      return v * 0.5f * erfcf(-0.70710678f * v);
  }
  return 0.0f;
}

// Whether a gradient is computed from y = f(x) rather than from x.
bool from_result(UnaryOp op) {
  return op == UnaryOp::kRelu || op == UnaryOp::kSigmoid || op == UnaryOp::kTanh ||
         op == UnaryOp::kExp || op == UnaryOp::kSqrt;
}

// v is y if from_result(op), else x; d the incoming gradient.
__device__ float apply_grad(UnaryOp op, float v, float d, float a) {
  switch (op) {
    case UnaryOp::kAffine:
      return a * d;
    case UnaryOp::kRelu:
      return v > 0.0f ? d : 0.0f;
    case UnaryOp::kLeakyRelu:
      return v > 0.0f ? d : a * d;
    case UnaryOp::kSigmoid:
      return d * v * (1.0f - v);
    case UnaryOp::kTanh:
      return d * (1.0f - v * v);
    case UnaryOp::kExp:
      return d * v;
    case UnaryOp::kLog:
      return d / v;
    case UnaryOp::kSqrt:
      return 0.5f * d / v;
    case UnaryOp::kSquare:
      return 2.0f * v * d;
    case UnaryOp::kAbs:
      return v > 0.0f ? d : (v < 0.0f ? -d : 0.0f);
    case UnaryOp::kGelu:
      return d * (0.5f * erfcf(-0.70710678f * v) + v * 0.39894228f * expf(-0.5f * v * v));
  }
  return 0.0f;
}

__device__ float apply(BinaryOp op, float a, float b) {
  switch (op) {
    case BinaryOp::kAdd:
      return a + b;
    case BinaryOp::kSub:
      return a - b;
    case BinaryOp::kMul:
      return a * b;
    case BinaryOp::kDiv:
      return a / b;
    case BinaryOp::kAddRelu: {
      const float s = a + b;
      return s < 0.0f ? 0.0f : s;
    }
  }
  return 0.0f;
}

// The kernels below work on n vectors of N elements.

template <typename T, int N>
__global__ void unary_kernel(UnaryOp op, const T* x, T* y, int64_t n, float a, float b) {
  for (int64_t i = thread_index(); i < n; i += item_stride()) {
    Vec<T, N> v = reinterpret_cast<const Vec<T, N>*>(x)[i];
#pragma unroll
    for (int k = 0; k < N; ++k) store(&v.v[k], apply(op, load(v.v[k]), a, b));
    reinterpret_cast<Vec<T, N>*>(y)[i] = v;
  }
}

template <typename T, int N>
__global__ void unary_grad_kernel(UnaryOp op, const T* v, const T* g, T* dx, int64_t n, float a) {
  for (int64_t i = thread_index(); i < n; i += item_stride()) {
    const Vec<T, N> pv = reinterpret_cast<const Vec<T, N>*>(v)[i];
    Vec<T, N> pg = reinterpret_cast<const Vec<T, N>*>(g)[i];
#pragma unroll
    for (int k = 0; k < N; ++k) {
      store(&pg.v[k], apply_grad(op, load(pv.v[k]), load(pg.v[k]), a));
    }
    reinterpret_cast<Vec<T, N>*>(dx)[i] = pg;
  }
}

// b has `period` packs and is repeated.
template <typename T, int N>
__global__ void binary_kernel(BinaryOp op, const T* a, const T* b, T* y, int64_t n,
                              int64_t period) {
  for (int64_t i = thread_index(); i < n; i += item_stride()) {
    Vec<T, N> pa = reinterpret_cast<const Vec<T, N>*>(a)[i];
    const Vec<T, N> pb = reinterpret_cast<const Vec<T, N>*>(b)[period == n ? i : i % period];
#pragma unroll
    for (int k = 0; k < N; ++k) store(&pa.v[k], apply(op, load(pa.v[k]), load(pb.v[k])));
    reinterpret_cast<Vec<T, N>*>(y)[i] = pa;
  }
}

template <typename X, typename Y, int N>
__global__ void axpy_kernel(float alpha, const X* x, Y* y, int64_t n) {
  for (int64_t i = thread_index(); i < n; i += item_stride()) {
    const Vec<X, N> px = reinterpret_cast<const Vec<X, N>*>(x)[i];
    Vec<Y, N> py = reinterpret_cast<const Vec<Y, N>*>(y)[i];
#pragma unroll
    for (int k = 0; k < N; ++k) store(&py.v[k], load(py.v[k]) + alpha * load(px.v[k]));
    reinterpret_cast<Vec<Y, N>*>(y)[i] = py;
  }
}

// Axes of a broadcast, outermost first: the size, and the operands' strides in elements.
struct Broadcast {
  int count = 0;
  int64_t size[Shape::kMaxRank], a[Shape::kMaxRank], b[Shape::kMaxRank];
};

template <typename T>
__global__ void broadcast_kernel(BinaryOp op, const T* a, const T* b, T* y, int64_t n,
                                 Broadcast axes) {
  for (int64_t i = thread_index(); i < n; i += item_stride()) {
    int64_t rest = i, ia = 0, ib = 0;
    for (int k = axes.count - 1; k >= 0; --k) {
      const int64_t at = rest % axes.size[k];
      rest /= axes.size[k];
      ia += at * axes.a[k];
      ib += at * axes.b[k];
    }
    store(y + i, apply(op, load(a[ia]), load(b[ib])));
  }
}

// [C] or a scalar against channels-last images, a frequent case: row r of b repeats.
bool channel_vector(const Shape& a, const Shape& b) {
  return a.rank() == 4 && b[0] == 1 && b[1] == a[1] && b[2] == 1 && b[3] == 1;
}

}  // namespace

Tensor CudaBackend::unary(UnaryOp op, const Tensor& x, float a, float b) {
  Context& c = context(device_);
  Tensor y = Tensor::empty_like(x);
  const int64_t n = x.numel();
  if (n == 0) return y;
  with_activation(x.dtype(), [&]<typename T>(T) {
    const T* px = read<T>(c, x);
    T* py = write<T>(c, y);
    with_vec<T>(
        n,
        [&]<int N>(std::integral_constant<int, N>) {
          launch(unary_kernel<T, N>, blocks_for(n / N), kThreads, 0, c.stream, op, px, py, n / N, a,
                 b);
        },
        px, py);
  });
  return y;
}

Tensor CudaBackend::unary_grad(UnaryOp op, const Tensor& x, const Tensor& y, const Tensor& dy,
                               float a, float) {
  Context& c = context(device_);
  const Dtype dtype = x.defined() ? x.dtype() : dy.dtype();
  const Tensor g = dy.to(dtype);
  Tensor v = g;
  if (op != UnaryOp::kAffine) v = as(from_result(op) ? y : x, dtype, g.layout());
  Tensor dx = Tensor::empty_like(g);
  const int64_t n = g.numel();
  if (n == 0) return dx;
  with_activation(dtype, [&]<typename T>(T) {
    const T* pv = read<T>(c, v);
    const T* pg = read<T>(c, g);
    T* pdx = write<T>(c, dx);
    with_vec<T>(
        n,
        [&]<int N>(std::integral_constant<int, N>) {
          launch(unary_grad_kernel<T, N>, blocks_for(n / N), kThreads, 0, c.stream, op, pv, pg, pdx,
                 n / N, a);
        },
        pv, pg, pdx);
  });
  return dx;
}

Tensor CudaBackend::binary(BinaryOp op, const Tensor& a, const Tensor& b) {
  Context& c = context(device_);
  Shape one_row = a.shape();
  if (a.rank() > 0) one_row.set(0, 1);
  const bool same = a.shape() == b.shape();
  const bool channels =
      !same && a.layout() == Layout::kChannelsLast && channel_vector(a.shape(), b.shape());
  if (same || channels || (a.rank() > 1 && b.shape() == one_row)) {
    // b repeats along the outermost axis, or not at all: a's layout is kept.
    const Tensor other = as(b, a.dtype(), channels ? Layout::kPlain : a.layout());
    Tensor y = Tensor::empty_like(a);
    const int64_t n = a.numel(), period = other.numel();
    if (n == 0) return y;
    with_activation(a.dtype(), [&]<typename T>(T) {
      const T* pa = read<T>(c, a);
      const T* pb = read<T>(c, other);
      T* py = write<T>(c, y);
      with_vec<T>(
          period,
          [&]<int N>(std::integral_constant<int, N>) {
            launch(binary_kernel<T, N>, blocks_for(n / N), kThreads, 0, c.stream, op, pa, pb, py,
                   n / N, period / N);
          },
          pa, pb, py);
    });
    return y;
  }

  const Tensor pa = a.plain(), pb = b.to(a.dtype()).plain();
  Shape shape = a.shape();
  for (int i = 0; i < a.rank(); ++i) {
    if (a.dim(i) == 1) shape.set(i, b.dim(i));
  }
  Tensor y = Tensor::empty(shape, a.dtype(), device());
  const int64_t n = y.numel();
  if (n == 0) return y;
  // Neighbouring axes along which both operands go on in the same way are one.
  Broadcast axes;
  int64_t sa = a.numel(), sb = b.numel();
  for (int i = 0; i < a.rank(); ++i) {
    sa /= a.dim(i);
    sb /= b.dim(i);
    const int64_t size = shape[i], ta = a.dim(i) == 1 ? 0 : sa, tb = b.dim(i) == 1 ? 0 : sb;
    if (size == 1) continue;
    const int last = axes.count - 1;
    if (last >= 0 && axes.a[last] == ta * size && axes.b[last] == tb * size) {
      axes.size[last] *= size;
      axes.a[last] = ta;
      axes.b[last] = tb;
    } else {
      axes.size[axes.count] = size;
      axes.a[axes.count] = ta;
      axes.b[axes.count++] = tb;
    }
  }
  with_activation(a.dtype(), [&]<typename T>(T) {
    launch(broadcast_kernel<T>, blocks_for(n), kThreads, 0, c.stream, op, read<T>(c, pa),
           read<T>(c, pb), write<T>(c, y), n, axes);
  });
  return y;
}

void CudaBackend::axpy(float alpha, const Tensor& x, Tensor& y) {
  Context& c = context(device_);
  const bool mixed = y.dtype() == Dtype::kF32 && x.layout() == y.layout() &&
                     (x.dtype() == Dtype::kBF16 || x.dtype() == Dtype::kF16);
  const Tensor s = mixed ? x : as(x, y.dtype(), y.layout());
  const int64_t n = y.numel();
  if (n == 0) return;
  with_activation(s.dtype(), [&]<typename X>(X) {
    const X* px = read<X>(c, s);
    const auto run = [&]<typename Y>(Y) {
      Y* py = write<Y>(c, y);
      with_vec<X>(
          n,
          [&]<int N>(std::integral_constant<int, N>) {
            launch(axpy_kernel<X, Y, N>, blocks_for(n / N), kThreads, 0, c.stream, alpha, px, py,
                   n / N);
          },
          px, py);
    };
    if (mixed) {
      run(float{});
    } else {
      run(X{});
    }
  });
}

}  // namespace ens::cuda
