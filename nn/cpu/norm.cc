// SPDX-License-Identifier: Apache-2.0
// Batch normalisation and per-channel scaling.
//
// All of it is memory bound, so the aim is few passes: training forward reads x twice and writes y;
// backward reads x and dy twice and writes dx, and finds out from x again where the ReLU was
// active, instead of reading y as well.
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "base/threads.h"
#include "nn/cpu/cpu_backend.h"
#include "nn/cpu/simd.h"

namespace ens::cpu {
namespace {

constexpr int64_t kGrain = 1 << 15;
constexpr int64_t kRun = 512;  // rows summed in float32 before double takes over

// Per-channel constants: W channels' own, or one channel's for all.
template <int W, bool kOneChannel>
ENS_INLINE Vec<W> constants(const float* p) {
  if constexpr (kOneChannel) return Vec<W>{} + p[0];
  return load_vec<W>(p);
}
template <int W, bool kOneChannel>
ENS_INLINE void add_to(double* sums, const Vec<W>& v) {
  for (int i = 0; i < W; ++i) sums[kOneChannel ? 0 : i] += static_cast<double>(v[i]);
}
template <int W>
ENS_INLINE Vec<W> positive(const Vec<W>& condition, const Vec<W>& v) {
  return condition > 0.0f ? v : Vec<W>{};
}

// Calls kernel.tile<W, kOneChannel>(offset, rows, stride, channel) for pieces that make up the
// images [begin, end): `rows` rows of W neighbouring elements, `stride` apart, from element
// `offset`. They belong to the channels from `channel` on, or all to that one.
template <typename Kernel>
ENS_INLINE void for_tiles(const ChannelView& view, int64_t begin, int64_t end, Kernel& kernel) {
  // With a single block the images follow each other without a gap.
  const bool joined = view.blocks == 1;
  const int64_t pixels = joined ? (end - begin) * view.pixels : view.pixels;
  const int64_t segments = joined ? 1 : (end - begin) * view.blocks;
  const int64_t first = begin * view.blocks * view.pixels * view.lanes;
  const int64_t most_rows =
      view.lanes == 1 ? 16 * kRun : std::clamp<int64_t>(8192 / view.lanes, 8, kRun);
  for (int64_t s = 0; s < segments; ++s) {
    const int64_t block = s % view.blocks;
    for (int64_t row = 0; row < pixels; row += most_rows) {
      const int64_t rows = std::min(most_rows, pixels - row);
      const int64_t offset = first + (s * pixels + row) * view.lanes;
      if (view.lanes == 1) {
        kernel.template tile<16, true>(offset, rows / 16, 16, block);
        if (rows % 16) {
          kernel.template tile<1, true>(offset + rows / 16 * 16, rows % 16, 1, block);
        }
        continue;
      }
      const int64_t channel = block * view.lanes;
      int64_t lane = 0;
      for (; lane + 16 <= view.lanes; lane += 16) {
        kernel.template tile<16, false>(offset + lane, rows, view.lanes, channel + lane);
      }
      for (; lane + 4 <= view.lanes; lane += 4) {
        kernel.template tile<4, false>(offset + lane, rows, view.lanes, channel + lane);
      }
      for (; lane < view.lanes; ++lane) {
        kernel.template tile<1, false>(offset + lane, rows, view.lanes, channel + lane);
      }
    }
  }
}

// Sums of x - origin and of its square. An origin amid the data keeps the variance from cancelling.
template <typename T>
struct Moments {
  const T* x;
  const float* origin;
  double* sum;
  double* square;

  template <int W, bool kOneChannel>
  ENS_INLINE void tile(int64_t offset, int64_t rows, int64_t stride, int64_t channel) {
    const auto o = constants<W, kOneChannel>(origin + channel);
    const T* p = x + offset;
    Vec<W> s0{}, s1{}, s2{}, s3{}, q0{}, q1{}, q2{}, q3{};
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4, p += 4 * stride) {
      const Vec<W> a = load_vec<W>(p) - o, b = load_vec<W>(p + stride) - o;
      const Vec<W> c = load_vec<W>(p + 2 * stride) - o, d = load_vec<W>(p + 3 * stride) - o;
      s0 += a, s1 += b, s2 += c, s3 += d;
      q0 += a * a, q1 += b * b, q2 += c * c, q3 += d * d;
    }
    for (; r < rows; ++r, p += stride) {
      const Vec<W> a = load_vec<W>(p) - o;
      s0 += a;
      q0 += a * a;
    }
    add_to<W, kOneChannel>(sum + channel, (s0 + s1) + (s2 + s3));
    add_to<W, kOneChannel>(square + channel, (q0 + q1) + (q2 + q3));
  }
};

// y = x * scale + shift, then ReLU.
template <typename T, bool kRelu>
struct Affine {
  const T* x;
  T* y;
  const float* scale;
  const float* shift;

  template <int W, bool kOneChannel>
  ENS_INLINE void tile(int64_t offset, int64_t rows, int64_t stride, int64_t channel) {
    const auto a = constants<W, kOneChannel>(scale + channel);
    const auto b = constants<W, kOneChannel>(shift + channel);
    const T* p = x + offset;
    T* out = y + offset;
    for (int64_t r = 0; r < rows; ++r) {
      Vec<W> v = load_vec<W>(p + r * stride) * a + b;
      if constexpr (kRelu) v = v < 0.0f ? Vec<W>{} : v;
      store_vec<W>(out + r * stride, v);
    }
  }
};

// Sums of dz and dz * (x - mean), where dz is dy, or 0 where the ReLU cut.
template <typename T, bool kRelu>
struct GradSums {
  const T* x;
  const T* dy;
  const float* scale;
  const float* shift;
  const float* mean;
  double* sum;
  double* product;

  template <int W, bool kOneChannel>
  ENS_INLINE void tile(int64_t offset, int64_t rows, int64_t stride, int64_t channel) {
    const auto a = constants<W, kOneChannel>(scale + channel);
    const auto b = constants<W, kOneChannel>(shift + channel);
    const auto m = constants<W, kOneChannel>(mean + channel);
    const T* px = x + offset;
    const T* pg = dy + offset;
    Vec<W> s0{}, s1{}, s2{}, s3{}, q0{}, q1{}, q2{}, q3{};
    const auto add = [&](int64_t row, Vec<W>& s, Vec<W>& q) ENS_INLINE_LAMBDA {
      const Vec<W> v = load_vec<W>(px + row * stride);
      Vec<W> g = load_vec<W>(pg + row * stride);
      if constexpr (kRelu) g = positive<W>(v * a + b, g);
      s += g;
      q += g * (v - m);
    };
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
      add(r, s0, q0);
      add(r + 1, s1, q1);
      add(r + 2, s2, q2);
      add(r + 3, s3, q3);
    }
    for (; r < rows; ++r) add(r, s0, q0);
    add_to<W, kOneChannel>(sum + channel, (s0 + s1) + (s2 + s3));
    add_to<W, kOneChannel>(product + channel, (q0 + q1) + (q2 + q3));
  }
};

// dx = dz * of_dz + x * of_x + constant.
template <typename T, bool kRelu>
struct GradInput {
  const T* x;
  const T* dy;
  T* dx;
  const float* scale;
  const float* shift;
  const float* of_dz;
  const float* of_x;
  const float* constant;

  template <int W, bool kOneChannel>
  ENS_INLINE void tile(int64_t offset, int64_t rows, int64_t stride, int64_t channel) {
    const auto a = constants<W, kOneChannel>(scale + channel);
    const auto b = constants<W, kOneChannel>(shift + channel);
    const auto kz = constants<W, kOneChannel>(of_dz + channel);
    const auto kx = constants<W, kOneChannel>(of_x + channel);
    const auto k0 = constants<W, kOneChannel>(constant + channel);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = offset + r * stride;
      const Vec<W> v = load_vec<W>(x + at);
      Vec<W> g = load_vec<W>(dy + at);
      if constexpr (kRelu) g = positive<W>(v * a + b, g);
      store_vec<W>(dx + at, g * kz + (v * kx + k0));
    }
  }
};

// dx = dy * scale, 0 where y is not positive if kRelu.
template <typename T, bool kRelu>
struct AffineGrad {
  const T* y;
  const T* dy;
  T* dx;
  const float* scale;

  template <int W, bool kOneChannel>
  ENS_INLINE void tile(int64_t offset, int64_t rows, int64_t stride, int64_t channel) {
    const auto a = constants<W, kOneChannel>(scale + channel);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = offset + r * stride;
      Vec<W> g = load_vec<W>(dy + at) * a;
      if constexpr (kRelu) g = positive<W>(load_vec<W>(y + at), g);
      store_vec<W>(dx + at, g);
    }
  }
};

// One function per kernel and type, so that each exists for every instruction set.
#define ENS_TILE_KERNEL(name, ...)                                                                 \
  ENS_CLONES void name(const ChannelView& view, int64_t begin, int64_t end, __VA_ARGS__& kernel) { \
    for_tiles(view, begin, end, kernel);                                                           \
  }
#define ENS_TILE_KERNELS_RELU(Kernel)           \
  ENS_TILE_KERNEL(run, Kernel<float, false>)    \
  ENS_TILE_KERNEL(run, Kernel<float, true>)     \
  ENS_TILE_KERNEL(run, Kernel<BFloat16, false>) \
  ENS_TILE_KERNEL(run, Kernel<BFloat16, true>)
ENS_TILE_KERNEL(run, Moments<float>)
ENS_TILE_KERNEL(run, Moments<BFloat16>)
ENS_TILE_KERNELS_RELU(Affine)
ENS_TILE_KERNELS_RELU(GradSums)
ENS_TILE_KERNELS_RELU(GradInput)
ENS_TILE_KERNELS_RELU(AffineGrad)

template <typename F>
void with_relu(bool relu, F&& f) {
  if (relu) return f(std::true_type{});
  return f(std::false_type{});
}

// How many images a thread should get at least.
int64_t image_grain(const ChannelView& v) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, v.channels() * v.pixels));
}

// Runs `part(begin, end, sums, products)` over slices of the images, each with sums of its own, and
// returns the totals, [2][channels].
template <typename F>
std::vector<double> two_sums(const ChannelView& view, F&& part) {
  const auto channels = static_cast<size_t>(view.channels());
  const int64_t slices = std::clamp<int64_t>(view.outer / image_grain(view), 1, compute_threads());
  std::vector<double> sums(2 * channels * static_cast<size_t>(slices), 0.0);
  parallel_for(slices, 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      double* own = sums.data() + 2 * channels * static_cast<size_t>(s);
      part(view.outer * s / slices, view.outer * (s + 1) / slices, own, own + channels);
    }
  });
  for (size_t s = 1; s < static_cast<size_t>(slices); ++s) {
    for (size_t i = 0; i < 2 * channels; ++i) sums[i] += sums[2 * channels * s + i];
  }
  sums.resize(2 * channels);
  return sums;
}

template <typename Kernel>
void run_parallel(const ChannelView& view, const Kernel& kernel) {
  parallel_for(view.outer, image_grain(view), [&](int64_t begin, int64_t end) {
    Kernel own = kernel;
    run(view, begin, end, own);
  });
}

// The first element of every channel.
template <typename T>
std::vector<float> first_elements(const ChannelView& v, const T* x) {
  std::vector<float> first(static_cast<size_t>(v.channels()));
  for (int64_t c = 0; c < v.channels(); ++c) {
    first[static_cast<size_t>(c)] = load(x[c / v.lanes * v.pixels * v.lanes + c % v.lanes]);
  }
  return first;
}

// Normalisation as y = x * scale + shift.
struct ScaleShift {
  std::vector<float> scale, shift;
  ScaleShift(const Tensor& gamma, const Tensor& beta, const BatchNormSaved& saved, float eps) {
    const auto n = static_cast<size_t>(gamma.numel());
    scale.resize(n);
    shift.resize(n);
    for (size_t c = 0; c < n; ++c) {
      const float deviation = std::sqrt(saved.var.span<float>()[c] + eps);
      scale[c] = gamma.span<float>()[c] / deviation;
      shift[c] = beta.span<float>()[c] - saved.mean.span<float>()[c] * scale[c];
    }
  }
};

// What the layer remembers of its batches.
void track(const BatchNormSpec& spec, const BatchNormSaved& saved, double count) {
  const float unbias = count > 1 ? static_cast<float>(count / (count - 1)) : 1.0f;
  const auto follow = [&](Tensor running, const Tensor& now, float factor) {
    if (!running.defined()) return;
    for (size_t c = 0; c < running.span<float>().size(); ++c) {
      float& r = running.span<float>()[c];
      r += spec.momentum * (factor * now.span<float>()[c] - r);
    }
  };
  follow(spec.running_mean, saved.mean, 1.0f);
  follow(spec.running_var, saved.var, unbias);
}

}  // namespace

Tensor CpuBackend::batch_norm_train(const Tensor& x, const Tensor& gamma, const Tensor& beta,
                                    const Tensor& residual, const BatchNormSpec& spec,
                                    BatchNormSaved& saved) {
  if (residual.defined()) {
    BatchNormSpec alone = spec;
    alone.relu = false;
    const Tensor y = batch_norm_train(x, gamma, beta, Tensor(), alone, saved);
    return binary(spec.relu ? BinaryOp::kAddRelu : BinaryOp::kAdd, y, residual);
  }
  prepare_threads();
  const ChannelView view = channel_view(x);
  const int64_t channels = view.channels();
  saved.mean = Tensor::empty({channels});
  saved.var = Tensor::empty({channels});
  Tensor y = Tensor::empty_like(x);
  if (x.numel() == 0) return y;
  const double count = static_cast<double>(view.outer * view.pixels);
  with_activation_type(x.dtype(), [&]<typename T>(T*) {
    const T* px = x.data<T>();
    const std::vector<float> origin = first_elements(view, px);
    const std::vector<double> sums =
        two_sums(view, [&](int64_t begin, int64_t end, double* sum, double* square) {
          Moments<T> kernel{px, origin.data(), sum, square};
          run(view, begin, end, kernel);
        });
    for (size_t c = 0; c < static_cast<size_t>(channels); ++c) {
      const double offset = sums[c] / count;
      const double square = sums[c + static_cast<size_t>(channels)] / count;
      saved.mean.span<float>()[c] = static_cast<float>(static_cast<double>(origin[c]) + offset);
      saved.var.span<float>()[c] = static_cast<float>(std::max(square - offset * offset, 0.0));
    }
    track(spec, saved, count);
    const ScaleShift n(gamma, beta, saved, spec.eps);
    with_relu(spec.relu, [&](auto on) {
      run_parallel(view,
                   Affine<T, decltype(on)::value>{px, y.data<T>(), n.scale.data(), n.shift.data()});
    });
  });
  return y;
}

BatchNormGrads CpuBackend::batch_norm_train_grad(const Tensor& dy, const Tensor& x, const Tensor& y,
                                                 const Tensor& gamma, const Tensor& beta,
                                                 bool has_residual, const BatchNormSpec& spec,
                                                 const BatchNormSaved& saved) {
  if (has_residual) {
    BatchNormSpec alone = spec;
    alone.relu = false;
    const Tensor dz = spec.relu ? unary_grad(UnaryOp::kRelu, y, y, dy, 0, 0) : dy;
    BatchNormGrads grads = batch_norm_train_grad(dz, x, y, gamma, beta, false, alone, saved);
    grads.residual = dz;
    return grads;
  }
  prepare_threads();
  const ChannelView view = channel_view(x);
  const auto channels = static_cast<size_t>(view.channels());
  const Tensor g = as(dy, x.dtype(), x.layout());
  BatchNormGrads grads;
  grads.x = Tensor::empty_like(x);
  grads.gamma = Tensor::zeros({view.channels()});
  grads.beta = Tensor::zeros({view.channels()});
  if (x.numel() == 0) return grads;
  const double count = static_cast<double>(view.outer * view.pixels);
  const ScaleShift n(gamma, beta, saved, spec.eps);
  const float* mean = saved.mean.data<float>();
  with_activation_type(x.dtype(), [&]<typename T>(T*) {
    const T* px = x.data<T>();
    const T* pg = g.data<T>();
    with_relu(spec.relu, [&](auto on) {
      constexpr bool kRelu = decltype(on)::value;
      const std::vector<double> sums =
          two_sums(view, [&](int64_t begin, int64_t end, double* sum, double* product) {
            GradSums<T, kRelu> kernel{px, pg, n.scale.data(), n.shift.data(), mean, sum, product};
            run(view, begin, end, kernel);
          });
      // With h = (x - mean) / deviation: dbeta = sum dz, dgamma = sum dz h, and
      // dx = gamma / deviation * (dz - dbeta / count - h * dgamma / count).
      std::vector<float> of_x(channels), constant(channels);
      for (size_t c = 0; c < channels; ++c) {
        const double deviation =
            std::sqrt(static_cast<double>(saved.var.span<float>()[c] + spec.eps));
        const double dbeta = sums[c], dgamma = sums[c + channels] / deviation;
        grads.beta.span<float>()[c] = static_cast<float>(dbeta);
        grads.gamma.span<float>()[c] = static_cast<float>(dgamma);
        const auto scale = static_cast<double>(n.scale[c]);
        const double per_x = -scale * dgamma / count / deviation;
        of_x[c] = static_cast<float>(per_x);
        constant[c] =
            static_cast<float>(-scale * dbeta / count - per_x * static_cast<double>(mean[c]));
      }
      run_parallel(view,
                   GradInput<T, kRelu>{px, pg, grads.x.data<T>(), n.scale.data(), n.shift.data(),
                                       n.scale.data(), of_x.data(), constant.data()});
    });
  });
  return grads;
}

Tensor CpuBackend::channel_affine(const Tensor& x, const Tensor& scale, const Tensor& shift,
                                  bool relu) {
  prepare_threads();
  Tensor y = Tensor::empty_like(x);
  with_activation_type(x.dtype(), [&]<typename T>(T*) {
    with_relu(relu, [&](auto on) {
      run_parallel(channel_view(x),
                   Affine<T, decltype(on)::value>{x.data<T>(), y.data<T>(), scale.data<float>(),
                                                  shift.data<float>()});
    });
  });
  return y;
}

Tensor CpuBackend::channel_affine_grad(const Tensor& dy, const Tensor& y, const Tensor& scale,
                                       bool relu) {
  prepare_threads();
  // y may be undefined when there is no ReLU.
  const Tensor result = relu ? as(y, dy.dtype(), dy.layout()) : dy;
  Tensor dx = Tensor::empty_like(dy);
  with_activation_type(dy.dtype(), [&]<typename T>(T*) {
    with_relu(relu, [&](auto on) {
      run_parallel(channel_view(dy),
                   AffineGrad<T, decltype(on)::value>{result.data<T>(), dy.data<T>(), dx.data<T>(),
                                                      scale.data<float>()});
    });
  });
  return dx;
}

}  // namespace ens::cpu
