// SPDX-License-Identifier: Apache-2.0
// Copies, type and layout conversion, slices.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "base/error.h"
#include "base/threads.h"
#include "nn/cpu/cpu_backend.h"
#include "nn/cpu/dnnl_util.h"
#include "nn/cpu/simd.h"

namespace ens::cpu {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements a thread should get at least

void copy_bytes(void* dst, const void* src, size_t bytes) {
  parallel_for(static_cast<int64_t>(bytes), 1 << 19, [&](int64_t begin, int64_t end) {
    std::memcpy(static_cast<std::byte*>(dst) + begin, static_cast<const std::byte*>(src) + begin,
                static_cast<size_t>(end - begin));
  });
}

ENS_CLONES void convert_range(const float* s, BFloat16* d, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(d + i, s[i]);
}
ENS_CLONES void convert_range(const BFloat16* s, float* d, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) d[i] = load(s[i]);
}
ENS_CLONES void convert_range(const uint8_t* s, float* d, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) d[i] = static_cast<float>(s[i]);
}

// Integers: round to nearest, and saturate; NaN becomes 0.
template <typename To>
To from_float(float v) {
  if constexpr (std::is_integral_v<To>) {
    if (std::isnan(v)) return 0;
    const double low = std::numeric_limits<To>::min(), high = std::numeric_limits<To>::max();
    return static_cast<To>(std::clamp(std::nearbyint(static_cast<double>(v)), low, high));
  } else {
    return static_cast<To>(v);
  }
}

template <typename From, typename To>
void convert_range(const From* s, To* d, int64_t n) {
  for (int64_t i = 0; i < n; ++i) d[i] = from_float<To>(static_cast<float>(s[i]));
}

template <typename F>
void with_type(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::kF32:
      return f(static_cast<float*>(nullptr));
    case Dtype::kBF16:
      return f(static_cast<BFloat16*>(nullptr));
    case Dtype::kF16:
      return f(static_cast<Float16*>(nullptr));
    case Dtype::kF8:
      return f(static_cast<Float8*>(nullptr));
    case Dtype::kU8:
      return f(static_cast<uint8_t*>(nullptr));
    case Dtype::kI8:
      return f(static_cast<int8_t*>(nullptr));
    case Dtype::kI32:
      return f(static_cast<int32_t*>(nullptr));
  }
}

// Same layout, different types.
void convert(const Tensor& src, Tensor& dst) {
  with_type(src.dtype(), [&]<typename From>(From*) {
    with_type(dst.dtype(), [&]<typename To>(To*) {
      if constexpr (!std::is_same_v<From, To>) {
        const From* s = src.data<From>();
        To* d = dst.data<To>();
        parallel_for(src.numel(), kGrain, [&](int64_t begin, int64_t end) {
          convert_range(s + begin, d + begin, end - begin);
        });
      }
    });
  });
}

// Where channel c, pixel p of one image lies: channel(c) + p * pixel_stride.
struct ImageOrder {
  int64_t pixels, lanes;
  ImageOrder(const Shape& shape, Layout layout) {
    const ChannelView v = channel_view(shape, layout);
    pixels = v.pixels;
    lanes = v.lanes;
  }
  int64_t channel(int64_t c) const { return c / lanes * pixels * lanes + c % lanes; }
};

// Same type, different layouts; only the size of the elements matters.
template <typename Bits>
void change_layout(const Tensor& src, Tensor& dst) {
  const Shape& shape = src.shape();
  const ImageOrder from(shape, src.layout()), to(shape, dst.layout());
  const int64_t channels = shape[1], pixels = from.pixels, image = channels * pixels;
  const auto* s = static_cast<const Bits*>(src.host());
  auto* d = static_cast<Bits*>(dst.host());
  parallel_for(shape[0], std::max<int64_t>(1, kGrain / std::max<int64_t>(image, 1)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t n = begin; n < end; ++n) {
                   for (int64_t c = 0; c < channels; ++c) {
                     const Bits* sc = s + n * image + from.channel(c);
                     Bits* dc = d + n * image + to.channel(c);
                     for (int64_t p = 0; p < pixels; ++p) dc[p * to.lanes] = sc[p * from.lanes];
                   }
                 }
               });
}

bool dnnl_float(Dtype dtype) { return dtype == Dtype::kF32 || dtype == Dtype::kBF16; }

// The layout t's neighbours along `axis` have in memory: [outer][size][inner] with these sizes.
struct AxisView {
  int64_t outer, size, inner;
};

// False if a range [start, start+length) of the axis is not contiguous pieces in this layout.
bool axis_view(const Tensor& t, int axis, AxisView& view) {
  const Shape& s = t.shape();
  if (t.layout() == Layout::kPlain || axis == 0) {
    view = {1, s[axis], 1};
    for (int i = 0; i < axis; ++i) view.outer *= s[i];
    for (int i = axis + 1; i < s.rank(); ++i) view.inner *= s[i];
    return true;
  }
  const ChannelView c = channel_view(t);
  if (axis == 1) {
    view = {c.outer * c.pixels, c.channels(), 1};
    return t.layout() == Layout::kChannelsLast;
  }
  view = {c.outer * c.blocks, s[axis], c.lanes};
  if (axis == 2) view.inner *= s[3];
  if (axis == 3) view.outer *= s[2];
  return true;
}

// Blocked layouts keep whole blocks of channels together.
bool whole_blocks(const Tensor& t, int axis, int64_t start, int64_t length) {
  if (axis != 1 || t.layout() == Layout::kPlain || t.layout() == Layout::kChannelsLast)
    return false;
  const int64_t lanes = channel_view(t).lanes;
  return start % lanes == 0 && length % lanes == 0;
}

bool fits(const Shape& shape, Layout layout) {
  if (layout == Layout::kBlocked8) return shape[1] % 8 == 0;
  if (layout == Layout::kBlocked16) return shape[1] % 16 == 0;
  return true;
}

// dst[.., dst_start : +length, ..] = src[.., src_start : +length, ..]; same dtype and view.
void copy_ranges(const Tensor& src, const AxisView& from, int64_t src_start, Tensor& dst,
                 const AxisView& to, int64_t dst_start, int64_t length) {
  const size_t element = size_of(src.dtype());
  const size_t bytes = static_cast<size_t>(length * from.inner) * element;
  const auto* s = static_cast<const std::byte*>(src.host());
  auto* d = static_cast<std::byte*>(dst.host());
  if (from.outer == 1) {
    copy_bytes(d + static_cast<size_t>(dst_start * to.inner) * element,
               s + static_cast<size_t>(src_start * from.inner) * element, bytes);
    return;
  }
  parallel_for(from.outer, std::max<int64_t>(1, (1 << 18) / static_cast<int64_t>(bytes + 1)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t o = begin; o < end; ++o) {
                   const int64_t di = (o * to.size + dst_start) * to.inner;
                   const int64_t si = (o * from.size + src_start) * from.inner;
                   std::memcpy(d + static_cast<size_t>(di) * element,
                               s + static_cast<size_t>(si) * element, bytes);
                 }
               });
}

AxisView block_view(const Tensor& t) {
  const ChannelView c = channel_view(t);
  return {c.outer, c.channels(), c.pixels};
}

}  // namespace

void to_bfloat16(const float* from, int64_t n, BFloat16* to) { convert_range(from, to, n); }

void CpuBackend::copy(const Tensor& src, Tensor& dst) {
  prepare_threads();
  if (src.numel() == 0) return;
  if (src.layout() == dst.layout()) {
    if (src.dtype() == dst.dtype()) {
      if (src.host() != dst.host()) copy_bytes(dst.host(), src.host(), src.bytes());
    } else {
      convert(src, dst);
    }
    return;
  }
  if (dnnl_float(src.dtype()) && dnnl_float(dst.dtype())) {
    reorder(describe(src), src.host(), describe(dst), dst.host());
    return;
  }
  if (src.dtype() != dst.dtype()) {
    Tensor converted = Tensor::empty(src.shape(), dst.dtype(), {}, src.layout());
    convert(src, converted);
    copy(converted, dst);
    return;
  }
  switch (size_of(src.dtype())) {
    case 1:
      return change_layout<uint8_t>(src, dst);
    case 2:
      return change_layout<uint16_t>(src, dst);
    default:
      return change_layout<uint32_t>(src, dst);
  }
}

void CpuBackend::fill(Tensor& dst, float value) {
  prepare_threads();
  with_type(dst.dtype(), [&]<typename T>(T*) {
    T* d = dst.data<T>();
    const T v = from_float<T>(value);
    parallel_for(dst.numel(), 8 * kGrain,
                 [&](int64_t begin, int64_t end) { std::fill(d + begin, d + end, v); });
  });
}

Tensor CpuBackend::slice(const Tensor& x, int axis, int64_t start, int64_t length) {
  prepare_threads();
  if (axis < 0) axis += x.rank();
  Shape shape = x.shape();
  shape.set(axis, length);
  AxisView from;
  const bool blocks = whole_blocks(x, axis, start, length);
  if (!blocks && !axis_view(x, axis, from)) return slice(x.plain(), axis, start, length);
  Tensor y = Tensor::empty(shape, x.dtype(), {}, x.layout());
  if (y.numel() == 0) return y;
  AxisView to;
  if (blocks) {
    from = block_view(x);
    to = block_view(y);
  } else {
    axis_view(y, axis, to);
  }
  copy_ranges(x, from, start, y, to, 0, length);
  return y;
}

void CpuBackend::slice_update(const Tensor& src, Tensor& dst, int axis, int64_t start) {
  prepare_threads();
  if (src.numel() == 0) return;
  if (axis < 0) axis += dst.rank();
  const int64_t length = src.dim(axis);
  AxisView to;
  const bool blocks = whole_blocks(dst, axis, start, length);
  if (!blocks && (!fits(src.shape(), dst.layout()) || !axis_view(dst, axis, to))) {
    Tensor plain = dst.plain();
    slice_update(src, plain, axis, start);
    copy(plain, dst);
    return;
  }
  const Tensor s = as(src, dst.dtype(), dst.layout());
  AxisView from;
  if (blocks) {
    from = block_view(s);
    to = block_view(dst);
  } else {
    axis_view(s, axis, from);
  }
  copy_ranges(s, from, 0, dst, to, start, length);
}

}  // namespace ens::cpu
