// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/dense_small_map.h"

#include <algorithm>
#include <cstring>

#include "base/threads.h"
#include "nn/cpu/allocator.h"
#include "nn/cpu/dnnl_util.h"
#include "nn/cpu/simd.h"

namespace ens::cpu {
namespace {

constexpr int64_t kMostPixels = 4;
constexpr int64_t kServedFrom = 8;  // images in a batch

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
  return Tensor::wrap(t.host(), {t.dim(0), t.numel() / t.dim(0)}, t.dtype(), nullptr);
}

// Plain tensors would have lanes of one channel, which expand() copies one by one.
Tensor with_lanes(const Tensor& t) {
  return t.layout() == Layout::kPlain ? t.with_layout(Layout::kChannelsLast) : t;
}

Layout result_layout(const Shape& shape, Dtype dtype) {
  const Layout layout = preferred_layout(shape, dtype);
  return layout == Layout::kPlain ? Layout::kChannelsLast : layout;
}

// A piece of a kernel [O,C,kh,kw] small enough for the nearest cache, in the order [kh*kw,C,O]: in
// one order or the other most steps through a whole kernel would miss.
class KernelTile {
 public:
  static constexpr int64_t kIn = 16, kOut = 32;

  KernelTile(const Shape& w, int64_t c, int64_t o, int64_t most_out)
      : stride_(w[1]),
        positions_(w[2] * w[3]),
        c_(c),
        o_(o),
        in_(std::min(kIn, w[1] - c)),
        out_(std::min(most_out, w[0] - o)),
        values_(static_cast<size_t>(positions_ * kIn * kOut) * sizeof(float)) {}

  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  float* run(int64_t position, int64_t c) const {
    return values_.as<float>() + (position * kIn + c) * kOut;
  }
  void clear() {
    std::memset(values_.data(), 0, static_cast<size_t>(positions_ * kIn * kOut) * sizeof(float));
  }
  void read(const float* w) {
    each([&](float& here, int64_t there) { here = w[there]; });
  }
  void write(float* w) const {
    each([&](float& here, int64_t there) { w[there] = here; });
  }

 private:
  template <typename F>
  void each(F f) const {
    for (int64_t i = 0; i < out_; ++i) {
      const int64_t row = ((o_ + i) * stride_ + c_) * positions_;
      for (int64_t c = 0; c < in_; ++c) {
        for (int64_t k = 0; k < positions_; ++k) f(run(k, c)[i], row + c * positions_ + k);
      }
    }
  }

  int64_t stride_, positions_, c_, o_, in_, out_;
  Buffer values_;
};

template <typename T>
ENS_INLINE void copy_body(T* target, const float* v, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(target + i, v[i]);
}
ENS_CLONES void copy_run(float* target, const float* v, int64_t n) { copy_body(target, v, n); }
ENS_CLONES void copy_run(BFloat16* target, const float* v, int64_t n) { copy_body(target, v, n); }
ENS_CLONES void add_run(float* sum, const float* v, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sum[i] += v[i];
}

}  // namespace

DenseSmallMap::DenseSmallMap(const Shape& x, const Shape& w, const Shape& y, const ConvSpec& spec)
    : x_(x), w_(w), y_(y), spec_(spec), inputs_(x[2] * x[3]), outputs_(y[2] * y[3]) {
  for (int64_t p = 0; p < inputs_; ++p) {
    for (int64_t q = 0; q < outputs_; ++q) taps_.push_back(find_tap(p, q));
  }
}

bool DenseSmallMap::serves_every_batch(const ConvProblem& c) {
  return c.x[2] * c.x[3] * c.y[2] * c.y[3] <= c.w[2] * c.w[3];
}

const char* DenseSmallMap::why_not(const ConvProblem& c) {
  const int64_t in = c.x[2] * c.x[3], out = c.y[2] * c.y[3];
  if (c.spec.groups != 1) return "the convolution has groups";
  if (c.serving) {
    if (in * out > 2 * c.w[2] * c.w[3])
      return "the matrix would be over twice as large as the weight";
  } else {
    if (in > kMostPixels || out > kMostPixels) return "the maps have more than 4 pixels";
    if (c.x[1] < 8 || c.y[1] < 8) return "fewer than 8 channels are quick enough with oneDNN";
  }
  const DenseSmallMap map(c);
  const auto padding = std::ranges::count(map.taps_, -1);
  if (4 * padding > in * out) return "over a quarter of the matrix would be zeros";
  // With few images the time goes into reading the weights, of which the matrix has more.
  if (c.serving && c.x[0] < kServedFrom && !serves_every_batch(c)) return "the batch is below 8";
  return nullptr;
}

int64_t DenseSmallMap::find_tap(int64_t p, int64_t q) const {
  const auto along = [this](int axis, int64_t in, int64_t out) -> int64_t {
    const int64_t distance = in - (out * spec_.stride - spec_.padding);
    if (distance < 0 || distance % spec_.dilation != 0) return -1;
    const int64_t k = distance / spec_.dilation;
    return k < w_[axis] ? k : -1;
  };
  const int64_t h = along(2, p / x_[3], q / y_[3]), w = along(3, p % x_[3], q % y_[3]);
  return h < 0 || w < 0 ? -1 : h * w_[3] + w;
}

template <typename F>
void DenseSmallMap::for_tiles(int64_t lanes, F&& f) const {
  const int64_t most_out = std::min(lanes, KernelTile::kOut);
  const int64_t tiles = (w_[1] + KernelTile::kIn - 1) / KernelTile::kIn;
  parallel_for(tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t c = i * KernelTile::kIn;
      for (int64_t o = 0; o < w_[0]; o += most_out) {
        KernelTile tile(w_, c, o, most_out);
        f(tile, c, o);
      }
    }
  });
}

Tensor DenseSmallMap::expand(const Tensor& w, Dtype dtype, Layout x_layout, Layout y_layout) const {
  const Order from(x_, x_layout), to(y_, y_layout);
  const int64_t row = to.pixels * w_[0];
  Tensor matrix = Tensor::empty({from.pixels * w_[1], row}, dtype);
  const float* kernel = w.data<float>();
  with_activation_type(dtype, [&]<typename T>(T*) {
    T* target = matrix.data<T>();
    for_tiles(to.lanes, [&](KernelTile& tile, int64_t c, int64_t o) {
      tile.read(kernel);
      for (int64_t i = 0; i < tile.in(); ++i) {
        for (int64_t p = 0; p < from.pixels; ++p) {
          T* line = target + from.at(c + i, p) * row;
          for (int64_t q = 0; q < to.pixels; ++q) {
            T* piece = line + to.at(o, q);
            const int64_t k = tap(p, q);
            if (k < 0) {
              std::fill(piece, piece + tile.out(), T{});
            } else {
              copy_run(piece, tile.run(k, i), tile.out());
            }
          }
        }
      }
    });
  });
  return matrix;
}

Tensor DenseSmallMap::forward(Backend& backend, const Tensor& x, const Tensor& w,
                              const Tensor& bias) const {
  const Tensor source = with_lanes(x);
  Tensor y = Tensor::empty(y_, x.dtype(), {}, result_layout(y_, x.dtype()));
  const Tensor matrix = expand(w, x.dtype(), source.layout(), y.layout());
  Tensor rows = as_rows(y);
  backend.gemm(false, false, 1.0f, as_rows(source), matrix, 0.0f, rows);
  if (!bias.defined()) return y;
  return backend.channel_affine(y, Tensor::full({w_[0]}, 1.0f), bias, false);
}

Tensor DenseSmallMap::grad_input(Backend& backend, const Tensor& dy, const Tensor& w) const {
  const Tensor gradient = with_lanes(dy);
  Tensor dx = Tensor::empty(x_, dy.dtype(), {}, result_layout(x_, dy.dtype()));
  const Tensor matrix = expand(w, dy.dtype(), dx.layout(), gradient.layout());
  Tensor rows = as_rows(dx);
  backend.gemm(false, true, 1.0f, as_rows(gradient), matrix, 0.0f, rows);
  return dx;
}

Tensor DenseSmallMap::grad_weight(Backend& backend, const Tensor& x, const Tensor& dy) const {
  const Tensor source = with_lanes(x), gradient = with_lanes(dy);
  const Order from(x_, source.layout()), to(y_, gradient.layout());
  const int64_t row = to.pixels * w_[0];
  Tensor matrix = Tensor::empty({from.pixels * w_[1], row});
  backend.gemm(true, false, 1.0f, as_rows(source), as_rows(gradient), 0.0f, matrix);
  // The reverse of expand(): what came from one element of the kernel is summed.
  Tensor dw = Tensor::empty(w_);
  const float* sums = matrix.data<float>();
  float* result = dw.data<float>();
  for_tiles(to.lanes, [&](KernelTile& tile, int64_t c, int64_t o) {
    tile.clear();
    for (int64_t i = 0; i < tile.in(); ++i) {
      for (int64_t p = 0; p < from.pixels; ++p) {
        const float* line = sums + from.at(c + i, p) * row;
        for (int64_t q = 0; q < to.pixels; ++q) {
          const int64_t k = tap(p, q);
          if (k >= 0) add_run(tile.run(k, i), line + to.at(o, q), tile.out());
        }
      }
    }
    tile.write(result);
  });
  return dw;
}

}  // namespace ens::cpu
