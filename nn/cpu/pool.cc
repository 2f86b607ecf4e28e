// SPDX-License-Identifier: Apache-2.0
// Pooling, in any layout: the inner loop runs over the lanes of a ChannelView.
#include <algorithm>
#include <cstring>
#include <vector>

#include "base/threads.h"
#include "nn/cpu/cpu_backend.h"
#include "nn/cpu/dnnl_util.h"
#include "nn/cpu/simd.h"

namespace ens::cpu {
namespace {

constexpr int64_t kGrain = 1 << 15;

// The window of one output position along one axis, clipped to the image.
struct Range {
  int64_t begin, end;
};
ENS_INLINE Range window(int64_t out, const PoolSpec& spec, int64_t size) {
  const int64_t start = out * spec.stride - spec.padding;
  return {start < 0 ? 0 : start, start + spec.kernel < size ? start + spec.kernel : size};
}
// The output positions in whose windows an input position lies.
Range windows_with(int64_t in, const PoolSpec& spec, int64_t out_size) {
  const int64_t last = (in + spec.padding) / spec.stride;
  const int64_t before = in + spec.padding - spec.kernel;  // windows starting here end too soon
  const int64_t first = before < 0 ? 0 : before / spec.stride + 1;
  return {first, last + 1 < out_size ? last + 1 : out_size};
}

int64_t pooled(int64_t size, const PoolSpec& spec) {
  return (size + 2 * spec.padding - spec.kernel) / spec.stride + 1;
}

Shape pooled_shape(const Shape& s, const PoolSpec& spec) {
  return {s[0], s[1], pooled(s[2], spec), pooled(s[3], spec)};
}

// One image's channels of one block.
struct Plane {
  int64_t height, width, out_height, out_width, lanes;
  PoolSpec spec;
  std::vector<Range> out_rows, out_columns;  // windows_with() of every row and column
};

// Calls f<W>(l) for pieces of W lanes that make up all of them.
template <typename F>
ENS_INLINE void for_lanes(int64_t lanes, F f) {
  int64_t l = 0;
  for (; l + 16 <= lanes; l += 16) f.template operator()<16>(l);
  for (; l + 8 <= lanes; l += 8) f.template operator()<8>(l);
  for (; l < lanes; ++l) f.template operator()<1>(l);
}

template <typename T, typename Index>
ENS_INLINE void max_body(const Plane& p, const T* x, T* y, Index* tap_of) {
  const int64_t lanes = p.lanes;
  for (int64_t oh = 0; oh < p.out_height; ++oh) {
    const Range rows = window(oh, p.spec, p.height);
    const int64_t top = oh * p.spec.stride - p.spec.padding;
    for (int64_t ow = 0; ow < p.out_width; ++ow, y += lanes, tap_of += lanes) {
      const Range columns = window(ow, p.spec, p.width);
      const int64_t left = ow * p.spec.stride - p.spec.padding;
      for_lanes(lanes, [&]<int W>(int64_t l) ENS_INLINE_LAMBDA {
        // Loops over arrays: GCC 12 would compare vectors element by element in these functions.
        float best[W];
        uint32_t taps[W];
        const T* first = x + (rows.begin * p.width + columns.begin) * lanes + l;
        const auto first_tap =
            static_cast<uint32_t>((rows.begin - top) * p.spec.kernel + columns.begin - left);
        for (int i = 0; i < W; ++i) best[i] = load(first[i]), taps[i] = first_tap;
        for (int64_t h = rows.begin; h < rows.end; ++h) {
          for (int64_t w = columns.begin; w < columns.end; ++w) {
            const T* here = x + (h * p.width + w) * lanes + l;
            const auto tap = static_cast<uint32_t>((h - top) * p.spec.kernel + w - left);
#pragma omp simd
            for (int i = 0; i < W; ++i) {
              const float v = load(here[i]);
              const bool loses = (v <= best[i]) | (best[i] != best[i]);  // NaN wins, and stays
              best[i] = loses ? best[i] : v;
              taps[i] = loses ? taps[i] : tap;
            }
          }
        }
        for (int i = 0; i < W; ++i) {
          store(y + l + i, best[i]);
          tap_of[l + i] = static_cast<Index>(taps[i]);
        }
      });
    }
  }
}

// Gathers: each input sums the outputs that took it.
template <typename T, typename Index>
ENS_INLINE void max_grad_body(const Plane& p, const T* dy, const Index* tap_of, T* dx) {
  const int64_t lanes = p.lanes;
  for (int64_t h = 0; h < p.height; ++h) {
    const Range out_rows = p.out_rows[static_cast<size_t>(h)];
    for (int64_t w = 0; w < p.width; ++w, dx += lanes) {
      const Range out_columns = p.out_columns[static_cast<size_t>(w)];
      for_lanes(lanes, [&]<int W>(int64_t l) ENS_INLINE_LAMBDA {
        float sum[W] = {};
        for (int64_t oh = out_rows.begin; oh < out_rows.end; ++oh) {
          for (int64_t ow = out_columns.begin; ow < out_columns.end; ++ow) {
            const auto tap =
                static_cast<Index>((h - (oh * p.spec.stride - p.spec.padding)) * p.spec.kernel + w -
                                   (ow * p.spec.stride - p.spec.padding));
            const int64_t o = (oh * p.out_width + ow) * lanes + l;
#pragma omp simd
            for (int i = 0; i < W; ++i) sum[i] += tap_of[o + i] == tap ? load(dy[o + i]) : 0.0f;
          }
        }
        for (int i = 0; i < W; ++i) store(dx + l + i, sum[i]);
      });
    }
  }
}

ENS_INLINE float share(const Range& rows, const Range& columns) {
  return 1.0f / static_cast<float>((rows.end - rows.begin) * (columns.end - columns.begin));
}

template <typename T>
ENS_INLINE void average_body(const Plane& p, const T* x, T* y) {
  const int64_t lanes = p.lanes;
  for (int64_t oh = 0; oh < p.out_height; ++oh) {
    const Range rows = window(oh, p.spec, p.height);
    for (int64_t ow = 0; ow < p.out_width; ++ow, y += lanes) {
      const Range columns = window(ow, p.spec, p.width);
      for_lanes(lanes, [&]<int W>(int64_t l) ENS_INLINE_LAMBDA {
        Vec<W> sum{};
        for (int64_t h = rows.begin; h < rows.end; ++h) {
          for (int64_t w = columns.begin; w < columns.end; ++w) {
            sum += load_vec<W>(x + (h * p.width + w) * lanes + l);
          }
        }
        store_vec<W>(y + l, sum * share(rows, columns));
      });
    }
  }
}

template <typename T>
ENS_INLINE void average_grad_body(const Plane& p, const T* dy, T* dx) {
  const int64_t lanes = p.lanes;
  for (int64_t h = 0; h < p.height; ++h) {
    const Range out_rows = p.out_rows[static_cast<size_t>(h)];
    for (int64_t w = 0; w < p.width; ++w, dx += lanes) {
      const Range out_columns = p.out_columns[static_cast<size_t>(w)];
      for_lanes(lanes, [&]<int W>(int64_t l) ENS_INLINE_LAMBDA {
        Vec<W> sum{};
        for (int64_t oh = out_rows.begin; oh < out_rows.end; ++oh) {
          for (int64_t ow = out_columns.begin; ow < out_columns.end; ++ow) {
            sum += load_vec<W>(dy + (oh * p.out_width + ow) * lanes + l) *
                   share(window(oh, p.spec, p.height), window(ow, p.spec, p.width));
          }
        }
        store_vec<W>(dx + l, sum);
      });
    }
  }
}

// Each for every instruction set.
#define ENS_POOL_KERNELS(T)                                                                  \
  ENS_CLONES void average_plane(const Plane& p, const T* x, T* y) { average_body(p, x, y); } \
  ENS_CLONES void average_grad_plane(const Plane& p, const T* dy, T* dx) {                   \
    average_grad_body(p, dy, dx);                                                            \
  }
#define ENS_MAX_POOL_KERNELS(T, Index)                                                      \
  ENS_CLONES void max_plane(const Plane& p, const T* x, T* y, Index* tap_of) {              \
    max_body(p, x, y, tap_of);                                                              \
  }                                                                                         \
  ENS_CLONES void max_grad_plane(const Plane& p, const T* dy, const Index* tap_of, T* dx) { \
    max_grad_body(p, dy, tap_of, dx);                                                       \
  }
ENS_POOL_KERNELS(float)
ENS_POOL_KERNELS(BFloat16)
ENS_MAX_POOL_KERNELS(float, uint8_t)
ENS_MAX_POOL_KERNELS(float, int32_t)
ENS_MAX_POOL_KERNELS(BFloat16, uint8_t)
ENS_MAX_POOL_KERNELS(BFloat16, int32_t)

// Calls f(input offset, output offset) for every image and block of channels.
template <typename F>
void for_planes(const ChannelView& view, const Plane& plane, F&& f) {
  const int64_t in = plane.height * plane.width * plane.lanes;
  const int64_t out = plane.out_height * plane.out_width * plane.lanes;
  parallel_for(view.outer * view.blocks, std::max<int64_t>(1, kGrain / std::max<int64_t>(in, 1)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) f(i * in, i * out);
               });
}

Plane make_plane(const Shape& in, const Shape& out, Layout layout, const PoolSpec& spec) {
  Plane p{in[2], in[3], out[2], out[3], channel_view(in, layout).lanes, spec, {}, {}};
  for (int64_t h = 0; h < p.height; ++h) {
    p.out_rows.push_back(windows_with(h, spec, p.out_height));
  }
  for (int64_t w = 0; w < p.width; ++w) {
    p.out_columns.push_back(windows_with(w, spec, p.out_width));
  }
  return p;
}

// Which element of its window each maximum was: 0 .. kernel * kernel - 1.
Dtype index_dtype(const PoolSpec& spec) { return spec.kernel <= 16 ? Dtype::kU8 : Dtype::kI32; }
template <typename F>
void with_index_type(Dtype dtype, F&& f) {
  if (dtype == Dtype::kU8) return f(static_cast<uint8_t*>(nullptr));
  return f(static_cast<int32_t*>(nullptr));
}

template <typename T>
ENS_INLINE void image_sums_body(const T* x, int64_t pixels, int64_t lanes, float* sums) {
  if (lanes == 1) {
    float parts[16] = {};
    int64_t i = 0;
    for (; i + 16 <= pixels; i += 16) {
#pragma omp simd
      for (int64_t k = 0; k < 16; ++k) parts[k] += load(x[i + k]);
    }
    float total = 0;
    for (; i < pixels; ++i) total += load(x[i]);
    for (float part : parts) total += part;
    sums[0] = total;
    return;
  }
  for (int64_t l = 0; l < lanes; ++l) sums[l] = 0;
  for (int64_t p = 0; p < pixels; ++p) {
#pragma omp simd
    for (int64_t l = 0; l < lanes; ++l) sums[l] += load(x[p * lanes + l]);
  }
}
ENS_CLONES void image_sums(const float* x, int64_t pixels, int64_t lanes, float* sums) {
  image_sums_body(x, pixels, lanes, sums);
}
ENS_CLONES void image_sums(const BFloat16* x, int64_t pixels, int64_t lanes, float* sums) {
  image_sums_body(x, pixels, lanes, sums);
}

}  // namespace

Tensor CpuBackend::max_pool(const Tensor& x, const PoolSpec& spec, bool want_grad,
                            Tensor& workspace) {
  prepare_threads();
  const Shape shape = pooled_shape(x.shape(), spec);
  Tensor y = Tensor::empty(shape, x.dtype(), {}, x.layout());
  Tensor taps = Tensor::empty(shape, index_dtype(spec), {}, x.layout());
  const Plane plane = make_plane(x.shape(), shape, x.layout(), spec);
  with_activation_type(x.dtype(), [&]<typename T>(T*) {
    with_index_type(taps.dtype(), [&]<typename Index>(Index*) {
      const T* px = x.data<T>();
      T* py = y.data<T>();
      Index* pt = taps.data<Index>();
      for_planes(channel_view(x), plane,
                 [&](int64_t in, int64_t out) { max_plane(plane, px + in, py + out, pt + out); });
    });
  });
  workspace = want_grad ? taps : Tensor();
  return y;
}

Tensor CpuBackend::max_pool_grad(const Tensor& dy, const Tensor& workspace, const PoolSpec& spec,
                                 const Shape& x_shape) {
  prepare_threads();
  const Tensor g = dy.with_layout(workspace.layout());
  Tensor dx = Tensor::empty(x_shape, g.dtype(), {}, g.layout());
  const Plane plane = make_plane(x_shape, g.shape(), g.layout(), spec);
  with_activation_type(g.dtype(), [&]<typename T>(T*) {
    with_index_type(workspace.dtype(), [&]<typename Index>(Index*) {
      const T* pg = g.data<T>();
      const Index* pt = workspace.data<Index>();
      T* pdx = dx.data<T>();
      for_planes(channel_view(dx), plane, [&](int64_t in, int64_t out) {
        max_grad_plane(plane, pg + out, pt + out, pdx + in);
      });
    });
  });
  return dx;
}

Tensor CpuBackend::avg_pool(const Tensor& x, const PoolSpec& spec) {
  prepare_threads();
  const Shape shape = pooled_shape(x.shape(), spec);
  Tensor y = Tensor::empty(shape, x.dtype(), {}, x.layout());
  const Plane plane = make_plane(x.shape(), shape, x.layout(), spec);
  with_activation_type(x.dtype(), [&]<typename T>(T*) {
    const T* px = x.data<T>();
    T* py = y.data<T>();
    for_planes(channel_view(x), plane,
               [&](int64_t in, int64_t out) { average_plane(plane, px + in, py + out); });
  });
  return y;
}

Tensor CpuBackend::avg_pool_grad(const Tensor& dy, const PoolSpec& spec, const Shape& x_shape) {
  prepare_threads();
  Tensor dx = Tensor::empty(x_shape, dy.dtype(), {}, dy.layout());
  const Plane plane = make_plane(x_shape, dy.shape(), dy.layout(), spec);
  with_activation_type(dy.dtype(), [&]<typename T>(T*) {
    const T* pg = dy.data<T>();
    T* pdx = dx.data<T>();
    for_planes(channel_view(dx), plane,
               [&](int64_t in, int64_t out) { average_grad_plane(plane, pg + out, pdx + in); });
  });
  return dx;
}

Tensor CpuBackend::global_avg_pool(const Tensor& x) {
  prepare_threads();
  const ChannelView view = channel_view(x);
  Tensor means = Tensor::empty({x.dim(0), x.dim(1)});  // blocks follow each other: [B,C] is plain
  const float scale = 1.0f / static_cast<float>(view.pixels);
  float* out = means.data<float>();
  with_activation_type(x.dtype(), [&]<typename T>(T*) {
    const T* px = x.data<T>();
    const int64_t piece = view.pixels * view.lanes;
    parallel_for(view.outer * view.blocks, std::max<int64_t>(1, kGrain / piece),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) {
                     float* sums = out + i * view.lanes;
                     image_sums(px + i * piece, view.pixels, view.lanes, sums);
                     for (int64_t l = 0; l < view.lanes; ++l) sums[l] *= scale;
                   }
                 });
  });
  return means.to(x.dtype());
}

Tensor CpuBackend::global_avg_pool_grad(const Tensor& dy, const Shape& x_shape) {
  prepare_threads();
  const Tensor g = dy.plain();
  Tensor dx = Tensor::empty(x_shape, g.dtype(), {}, preferred_layout(x_shape, g.dtype()));
  const ChannelView view = channel_view(dx);
  const float scale = 1.0f / static_cast<float>(view.pixels);
  with_activation_type(g.dtype(), [&]<typename T>(T*) {
    const T* pg = g.data<T>();
    T* pdx = dx.data<T>();
    const int64_t piece = view.pixels * view.lanes;
    parallel_for(view.outer * view.blocks, std::max<int64_t>(1, kGrain / piece),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) {
                     T* d = pdx + i * piece;
                     const T* s = pg + i * view.lanes;
                     for (int64_t l = 0; l < view.lanes; ++l) store(d + l, load(s[l]) * scale);
                     for (int64_t p = 1; p < view.pixels; ++p) {
                       std::copy(d, d + view.lanes, d + p * view.lanes);
                     }
                   }
                 });
  });
  return dx;
}

}  // namespace ens::cpu
