#include "nn/cpu/small_conv.h"

#include <cstring>

#include "nn/cpu/allocator.h"
#include "nn/cpu/dnnl_util.h"
#include "nn/cpu/simd.h"
#include "nn/cpu/threads.h"

namespace ens::cpu {
namespace {

constexpr int64_t kMostPixels = 4;

// Pixels and channels of one image in memory: channel blocks, pixels, lanes.
struct Order {
  int64_t pixels, lanes;
  Order(const Shape& shape, Layout layout) {
    const ChannelView v = channel_view(shape, layout);
    pixels = v.pixels;
    lanes = v.lanes;
  }
  int64_t at(int64_t channel, int64_t pixel) const {
    return (channel / lanes * pixels + pixel) * lanes + channel % lanes;
  }
};

// Each image as one row. Shares t's memory, which must outlive the view.
Tensor as_rows(const Tensor& t) {
  return Tensor::wrap(t.raw(), {t.dim(0), t.numel() / t.dim(0)}, t.dtype(), nullptr);
}

// Plain tensors would have lanes of one channel, which spread() copies number by number.
Tensor with_lanes(const Tensor& t) {
  return t.layout() == Layout::kPlain ? t.with_layout(Layout::kChannelsLast) : t;
}

Layout result_layout(const Shape& shape, Dtype dtype) {
  const Layout layout = preferred_layout(shape, dtype);
  return layout == Layout::kPlain ? Layout::kChannelsLast : layout;
}

// Calls f(index in [O,C,kh,kw], index in [kh,kw,C,O]) for every number of a kernel whose input
// channel is in [begin, end). oneDNN's reorder takes several times as long for this pair.
template <typename F>
ENS_INLINE void for_kernel(const Shape& w, int64_t begin, int64_t end, F f) {
  constexpr int64_t kBlock = 16;
  const int64_t out = w[0], in = w[1], positions = w[2] * w[3];
  for (int64_t o = 0; o < out; o += kBlock) {
    const int64_t last = o + kBlock < out ? o + kBlock : out;
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t k = 0; k < positions; ++k) {
        for (int64_t i = o; i < last; ++i) f((i * in + c) * positions + k, (k * in + c) * out + i);
      }
    }
  }
}

ENS_CLONES void add_run(float* sum, const float* v, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sum[i] += v[i];
}

}  // namespace

SmallConv::SmallConv(const Shape& x, const Shape& w, const Shape& y, const ConvSpec& spec)
    : x_(x), w_(w), y_(y), spec_(spec) {
  const int64_t in = x[2] * x[3], out = y[2] * y[3];
  if (spec.groups != 1 || in > kMostPixels || out > kMostPixels) return;
  if (x[1] < 8 || y[1] < 8) return;  // oneDNN is not slow there in absolute terms
  pixels_ = out;
  int64_t used = 0;
  for (int64_t p = 0; p < in; ++p) {
    for (int64_t q = 0; q < out; ++q) {
      taps_.push_back(find_tap(p, q));
      used += taps_.back() >= 0;
    }
  }
  applies_ = 4 * used >= 3 * in * out;
}

int64_t SmallConv::find_tap(int64_t p, int64_t q) const {
  const auto along = [this](int axis, int64_t in, int64_t out) -> int64_t {
    const int64_t distance = in - (out * spec_.stride - spec_.padding);
    if (distance < 0 || distance % spec_.dilation != 0) return -1;
    const int64_t k = distance / spec_.dilation;
    return k < w_[axis] ? k : -1;
  };
  const int64_t h = along(2, p / x_[3], q / y_[3]), w = along(3, p % x_[3], q % y_[3]);
  return h < 0 || w < 0 ? -1 : h * w_[3] + w;
}

Tensor SmallConv::spread(const Tensor& w, Dtype dtype, Layout x_layout, Layout y_layout) const {
  const int64_t in = w_[1], out = w_[0];
  const Order from(x_, x_layout), to(y_, y_layout);
  const Buffer taps(static_cast<size_t>(w_.numel()) * size_of(dtype));
  const float* kernel = w.data<float>();
  const int64_t row = to.pixels * out;
  Tensor matrix = Tensor::empty({from.pixels * in, row}, dtype);
  with_activation_type(dtype, [&]<typename T>(T*) {
    T* source = taps.as<T>();
    T* target = matrix.data<T>();
    const size_t bytes = static_cast<size_t>(to.lanes) * sizeof(T);
    parallel_for(in, 8, [&](int64_t begin, int64_t end) {
      for_kernel(w_, begin, end, [&](int64_t i, int64_t ordered) ENS_INLINE_LAMBDA {
        store(source + ordered, kernel[i]);
      });
      for (int64_t c = begin; c < end; ++c) {
        for (int64_t p = 0; p < from.pixels; ++p) {
          T* line = target + from.at(c, p) * row;
          for (int64_t q = 0; q < to.pixels; ++q) {
            const int64_t k = tap(p, q);
            for (int64_t o = 0; o < out; o += to.lanes) {
              void* piece = line + to.at(o, q);
              if (k < 0) {
                std::memset(piece, 0, bytes);
              } else {
                std::memcpy(piece, source + (k * in + c) * out + o, bytes);
              }
            }
          }
        }
      }
    });
  });
  return matrix;
}

Tensor SmallConv::forward(Backend& backend, const Tensor& x, const Tensor& w,
                          const Tensor& bias) const {
  const Tensor source = with_lanes(x);
  Tensor y = Tensor::empty(y_, x.dtype(), {}, result_layout(y_, x.dtype()));
  const Tensor matrix = spread(w, x.dtype(), source.layout(), y.layout());
  Tensor rows = as_rows(y);
  backend.gemm(false, false, 1.0f, as_rows(source), matrix, 0.0f, rows);
  if (!bias.defined()) return y;
  return backend.channel_affine(y, Tensor::full({w_[0]}, 1.0f), bias, false);
}

Tensor SmallConv::grad_input(Backend& backend, const Tensor& dy, const Tensor& w) const {
  const Tensor gradient = with_lanes(dy);
  Tensor dx = Tensor::empty(x_, dy.dtype(), {}, result_layout(x_, dy.dtype()));
  const Tensor matrix = spread(w, dy.dtype(), dx.layout(), gradient.layout());
  Tensor rows = as_rows(dx);
  backend.gemm(false, true, 1.0f, as_rows(gradient), matrix, 0.0f, rows);
  return dx;
}

Tensor SmallConv::grad_weight(Backend& backend, const Tensor& x, const Tensor& dy) const {
  const Tensor source = with_lanes(x), gradient = with_lanes(dy);
  const int64_t in = w_[1], out = w_[0];
  const Order from(x_, source.layout()), to(y_, gradient.layout());
  const int64_t row = to.pixels * out;
  Tensor matrix = Tensor::empty({from.pixels * in, row});
  backend.gemm(true, false, 1.0f, as_rows(source), as_rows(gradient), 0.0f, matrix);
  // The reverse of spread(): what came from one number of the kernel is summed.
  const Buffer taps(static_cast<size_t>(w_.numel()) * sizeof(float));
  const int64_t positions = w_[2] * w_[3];
  Tensor dw = Tensor::empty(w_);
  float* result = dw.data<float>();
  const float* target = matrix.data<float>();
  parallel_for(in, 8, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t k = 0; k < positions; ++k) {
        std::memset(taps.as<float>() + (k * in + c) * out, 0,
                    static_cast<size_t>(out) * sizeof(float));
      }
      for (int64_t p = 0; p < from.pixels; ++p) {
        const float* line = target + from.at(c, p) * row;
        for (int64_t q = 0; q < to.pixels; ++q) {
          const int64_t k = tap(p, q);
          if (k < 0) continue;
          float* sums = taps.as<float>() + (k * in + c) * out;
          for (int64_t o = 0; o < out; o += to.lanes) {
            add_run(sums + o, line + to.at(o, q), to.lanes);
          }
        }
      }
    }
    for_kernel(w_, begin, end, [&](int64_t i, int64_t ordered) ENS_INLINE_LAMBDA {
      result[i] = taps.as<float>()[ordered];
    });
  });
  return dw;
}

}  // namespace ens::cpu
