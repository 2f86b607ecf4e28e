// SPDX-License-Identifier: Apache-2.0
// Copies, type and layout conversion, slices.
#include "nn/core/backend.h"
#include "nn/cuda/cuda_backend.h"
#include "nn/cuda/kernels.h"

namespace ens::cuda {
namespace {

template <typename From, typename To>
__global__ void convert_kernel(const From* s, To* d, int64_t n) {
  for (int64_t i = thread_index(); i < n; i += item_stride()) store(d + i, load(s[i]));
}

// The frequent ones, eight elements at a time.
template <typename From, typename To>
__global__ void convert_packs_kernel(const From* s, To* d, int64_t n) {
  for (int64_t i = thread_index(); i < n; i += item_stride()) {
    const Vec<From, 8> in = reinterpret_cast<const Vec<From, 8>*>(s)[i];
    Vec<To, 8> out;
#pragma unroll
    for (int k = 0; k < 8; ++k) store(&out.v[k], load(in.v[k]));
    reinterpret_cast<Vec<To, 8>*>(d)[i] = out;
  }
}

template <typename T>
__global__ void fill_kernel(T* d, int64_t n, float value) {
  for (int64_t i = thread_index(); i < n; i += item_stride()) store(d + i, value);
}

template <typename T>
__device__ void move(const T* s, T* d) {
  *d = *s;
}
template <typename From, typename To>
__device__ void move(const From* s, To* d) {
  store(d, load(*s));
}

// Transposes `gridDim.z` matrices [rows][columns], a tile of tile_rows x tile_columns at a time,
// which passes through shared memory so that both sides move whole rows.
constexpr int kTileNumbers = 64 * 33;

template <typename From, typename To>
__global__ void transpose_kernel(const From* s, To* d, int rows, int columns, Divisor by_rows,
                                 Divisor by_columns) {
  const int tile_rows = static_cast<int>(by_rows.by);
  const int tile_columns = static_cast<int>(by_columns.by);
  __shared__ To tile[kTileNumbers];
  const int64_t matrix = static_cast<int64_t>(blockIdx.z) * rows * columns;
  const int r0 = static_cast<int>(blockIdx.y) * tile_rows;
  const int c0 = static_cast<int>(blockIdx.x) * tile_columns;
  const int pitch = tile_columns | 1;
  const int numbers = tile_rows * tile_columns;
  for (int i = static_cast<int>(threadIdx.x); i < numbers; i += static_cast<int>(blockDim.x)) {
    const int r = by_columns.quotient(i), c = i - r * tile_columns;
    if (r0 + r < rows && c0 + c < columns) {
      move(s + matrix + static_cast<int64_t>(r0 + r) * columns + c0 + c, &tile[r * pitch + c]);
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < numbers; i += static_cast<int>(blockDim.x)) {
    const int c = by_rows.quotient(i), r = i - c * tile_rows;
    if (r0 + r < rows && c0 + c < columns) {
      d[matrix + static_cast<int64_t>(c0 + c) * rows + r0 + r] = tile[r * pitch + c];
    }
  }
}

template <typename From, typename To>
void transpose(Context& c, const From* s, To* d, int64_t matrices, int64_t rows, int64_t columns) {
  // At most 64 x 32; a shorter side, such as a kernel's 9 positions, is taken whole, and of the
  // other as much as fits.
  int tile_rows, tile_columns;
  if (rows < 32) {
    tile_rows = static_cast<int>(rows);
    tile_columns = static_cast<int>(std::min<int64_t>(columns, kTileNumbers / rows - 1));
  } else {
    tile_columns = static_cast<int>(std::min<int64_t>(columns, 32));
    tile_rows = static_cast<int>(std::min<int64_t>(rows, kTileNumbers / (tile_columns | 1)));
  }
  const auto pieces = [](int64_t n, int of) { return static_cast<unsigned>((n + of - 1) / of); };
  // A grid has at most 65535 blocks along z.
  constexpr int64_t kMost = 65535;
  for (int64_t first = 0; first < matrices; first += kMost) {
    const dim3 grid(pieces(columns, tile_columns), pieces(rows, tile_rows),
                    static_cast<unsigned>(std::min(kMost, matrices - first)));
    launch(transpose_kernel<From, To>, grid, kThreads, 0, c.stream, s + first * rows * columns,
           d + first * rows * columns, static_cast<int>(rows), static_cast<int>(columns),
           Divisor(tile_rows), Divisor(tile_columns));
  }
}

// dst[o][0:row] = src[o][0:row] for rows of pitch `from` and `to`; units of T.
template <typename T>
__global__ void rows_kernel(const T* s, T* d, int64_t n, int64_t row, int64_t from, int64_t to) {
  for (int64_t i = thread_index(); i < n; i += item_stride()) {
    const int64_t o = i / row, r = i % row;
    d[o * to + r] = s[o * from + r];
  }
}

void copy_rows(Context& c, const std::byte* s, std::byte* d, int64_t outer, size_t row, size_t from,
               size_t to) {
  const auto run = [&]<typename T>(T) {
    constexpr size_t kUnit = sizeof(T);
    const auto units = static_cast<int64_t>(row / kUnit);
    launch(rows_kernel<T>, blocks_for(outer * units), kThreads, 0, c.stream,
           reinterpret_cast<const T*>(s), reinterpret_cast<T*>(d), outer * units, units,
           static_cast<int64_t>(from / kUnit), static_cast<int64_t>(to / kUnit));
  };
  const uintptr_t all =
      reinterpret_cast<uintptr_t>(s) | reinterpret_cast<uintptr_t>(d) | row | from | to;
  if (all % 16 == 0) {
    run(uint4{});
  } else if (all % 4 == 0) {
    run(uint32_t{});
  } else if (all % 2 == 0) {
    run(uint16_t{});
  } else {
    run(uint8_t{});
  }
}

__global__ void crop_kernel(const uint8_t* pixels, const int32_t* where, float* y, int64_t n,
                            int channels, int height, int width) {
  for (int64_t i = thread_index(); i < n; i += item_stride()) {
    const int64_t column = i % width, row = i / width % height;
    const int64_t channel = i / width / height % channels;
    const int32_t* at = where + i / width / height / channels * 4;
    const int64_t from_row = row + at[1];
    const int64_t from_column = (at[3] ? width - 1 - column : column) + at[2];
    const bool inside =
        from_row >= 0 && from_row < height && from_column >= 0 && from_column < width;
    const int64_t image = at[0] * static_cast<int64_t>(channels) + channel;
    y[i] = inside ? load(pixels[(image * height + from_row) * width + from_column]) / 255.0f : 0.0f;
  }
}

template <typename F>
void with_type(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::kU8:
      return f(uint8_t{});
    case Dtype::kI8:
      return f(int8_t{});
    case Dtype::kI32:
      return f(int32_t{});
    default:
      return with_activation(dtype, f);
  }
}

// Same layout, different types.
void convert(Context& c, const Tensor& src, Tensor& dst) {
  const int64_t n = src.numel();
  with_type(src.dtype(), [&]<typename From>(From) {
    with_type(dst.dtype(), [&]<typename To>(To) {
      const From* s = read<From>(c, src);
      To* d = write<To>(c, dst);
      if constexpr (sizeof(From) >= 2 && sizeof(To) >= 2) {
        if (n % 8 == 0 && reinterpret_cast<uintptr_t>(s) % 32 == 0 &&
            reinterpret_cast<uintptr_t>(d) % 32 == 0) {
          launch(convert_packs_kernel<From, To>, blocks_for(n / 8), kThreads, 0, c.stream, s, d,
                 n / 8);
          return;
        }
      }
      launch(convert_kernel<From, To>, blocks_for(n), kThreads, 0, c.stream, s, d, n);
    });
  });
}

bool ours(Layout layout) { return layout == Layout::kPlain || layout == Layout::kChannelsLast; }

// Between plain and channels-last: float types to each other, the rest to themselves.
void change_layout(Context& c, const Tensor& src, Tensor& dst) {
  const Shape& s = src.shape();
  const bool to_last = dst.layout() == Layout::kChannelsLast;
  const int64_t pixels = s[2] * s[3];
  const int64_t rows = to_last ? s[1] : pixels, columns = to_last ? pixels : s[1];
  const auto run = [&]<typename From, typename To>(From, To) {
    transpose(c, read<From>(c, src), write<To>(c, dst), s[0], rows, columns);
  };
  switch (src.dtype()) {
    case Dtype::kU8:
    case Dtype::kI8:
      return run(uint8_t{}, uint8_t{});
    case Dtype::kI32:
      return run(int32_t{}, int32_t{});
    default:
      with_activation(src.dtype(), [&]<typename From>(From f) {
        with_activation(dst.dtype(), [&]<typename To>(To t) { run(f, t); });
      });
  }
}

bool is_float(Dtype d) { return d == Dtype::kF32 || d == Dtype::kBF16 || d == Dtype::kF16; }

void copy_on_device(Context& c, const Tensor& src, Tensor& dst) {
  const bool same_layout = src.layout() == dst.layout() || layouts_coincide(src.shape());
  if (same_layout && src.dtype() == dst.dtype()) {
    const void* s = read_raw(c, src);
    void* d = write_raw(c, dst);
    if (s != d) {
      check(cudaMemcpyAsync(d, s, src.bytes(), cudaMemcpyDeviceToDevice, c.stream),
            "cudaMemcpyAsync");
    }
  } else if (same_layout) {
    convert(c, src, dst);
  } else if (src.dtype() == dst.dtype() || (is_float(src.dtype()) && is_float(dst.dtype()))) {
    change_layout(c, src, dst);
  } else {
    Tensor converted = Tensor::empty(src.shape(), dst.dtype(), src.device(), src.layout());
    convert(c, src, converted);
    change_layout(c, converted, dst);
  }
}

// Where an axis lies in memory: [outer][size][inner].
struct AxisView {
  int64_t outer, size, inner;
};
AxisView axis_view(const Tensor& t, int axis) {
  const Shape& s = t.shape();
  constexpr int kLast[] = {0, 3, 1, 2};  // where channels-last puts N, C, H, W
  int64_t memory[Shape::kMaxRank];
  const bool last = t.layout() == Layout::kChannelsLast;
  for (int i = 0; i < s.rank(); ++i) memory[last ? kLast[i] : i] = s[i];
  const int at = last ? kLast[axis] : axis;
  AxisView v{1, s[axis], 1};
  for (int i = 0; i < at; ++i) v.outer *= memory[i];
  for (int i = at + 1; i < s.rank(); ++i) v.inner *= memory[i];
  return v;
}

}  // namespace

void CudaBackend::copy(const Tensor& src, Tensor& dst) {
  if (src.numel() == 0) return;
  const Device here = device();
  // The CPU's blocked layouts stay there.
  if (!ours(src.layout())) return copy(src.plain(), dst);
  if (!ours(dst.layout())) {
    Tensor plain = Tensor::empty(dst.shape(), dst.dtype(), src.device());
    copy(src, plain);
    Tensor there = plain.to(dst.device());
    return backend(dst.device()).copy(there, dst);
  }
  if (src.device() == here && dst.device() == here) {
    return copy_on_device(context(device_), src, dst);
  }
  if (src.device() == here && dst.device().type == Device::Type::kCpu) {
    // In the destination's form before it travels, unless it grows by that.
    Tensor form = src;
    if (size_of(dst.dtype()) <= size_of(src.dtype()) || src.layout() != dst.layout()) {
      form = as(src, dst.dtype(), dst.layout());
    }
    Context& c = context(device_);
    if (form.dtype() == dst.dtype()) {
      c.download(dst.raw(), read_raw(c, form), dst.bytes());
    } else {
      Tensor there = Tensor::empty(form.shape(), form.dtype(), {}, form.layout());
      c.download(there.raw(), read_raw(c, form), form.bytes());
      backend(Device{}).copy(there, dst);
    }
    return;
  }
  if (src.device().type == Device::Type::kCpu && dst.device() == here) {
    const Tensor form = size_of(dst.dtype()) < size_of(src.dtype()) ? src.to(dst.dtype()) : src;
    Context& c = context(device_);
    if (form.dtype() == dst.dtype() &&
        (form.layout() == dst.layout() || layouts_coincide(src.shape()))) {
      c.upload(write_raw(c, dst), form.raw(), form.bytes());
    } else {
      Tensor arrived = Tensor::empty(form.shape(), form.dtype(), here, form.layout());
      c.upload(write_raw(c, arrived), form.raw(), form.bytes());
      copy_on_device(c, arrived, dst);
    }
    return;
  }
  // Between two GPUs: dst's is asked.
  Tensor arrived = src.dtype() == dst.dtype() && src.layout() == dst.layout()
                       ? dst
                       : Tensor::empty(src.shape(), src.dtype(), here, src.layout());
  Context& c = context(device_);
  const void* s = read_peer(c, src);
  check(cudaMemcpyPeerAsync(write_raw(c, arrived), device_, s, src.device().index, src.bytes(),
                            c.stream),
        "cudaMemcpyPeerAsync");
  if (arrived.raw() != dst.raw()) copy_on_device(c, arrived, dst);
}

void CudaBackend::fill(Tensor& dst, float value) {
  Context& c = context(device_);
  const int64_t n = dst.numel();
  if (n == 0) return;
  if (value == 0.0f && !std::signbit(value)) {
    check(cudaMemsetAsync(write_raw(c, dst), 0, dst.bytes(), c.stream), "cudaMemsetAsync");
    return;
  }
  with_type(dst.dtype(), [&]<typename T>(T) {
    launch(fill_kernel<T>, blocks_for(n), kThreads, 0, c.stream, write<T>(c, dst), n, value);
  });
}

Tensor CudaBackend::crop(const Tensor& pixels, const Tensor& where) {
  Context& c = context(device_);
  Shape shape = pixels.shape();
  shape.set(0, where.dim(0));
  Tensor y = Tensor::empty(shape, Dtype::kF32, device());
  if (y.numel() == 0) return y;
  launch(crop_kernel, blocks_for(y.numel()), kThreads, 0, c.stream, read<uint8_t>(c, pixels),
         read<int32_t>(c, where), write<float>(c, y), y.numel(), shape[1], shape[2], shape[3]);
  return y;
}

Tensor CudaBackend::slice(const Tensor& x, int axis, int64_t start, int64_t length) {
  Context& c = context(device_);
  if (!ours(x.layout())) return slice(x.plain(), axis, start, length);
  if (axis < 0) axis += x.rank();
  Shape shape = x.shape();
  shape.set(axis, length);
  Tensor y = Tensor::empty(shape, x.dtype(), device(), x.layout());
  if (y.numel() == 0) return y;
  const AxisView v = axis_view(x, axis);
  const size_t unit = static_cast<size_t>(v.inner) * size_of(x.dtype());
  const size_t row = static_cast<size_t>(length) * unit;
  copy_rows(c, read<std::byte>(c, x) + static_cast<size_t>(start) * unit, write<std::byte>(c, y),
            v.outer, row, static_cast<size_t>(v.size) * unit, row);
  return y;
}

void CudaBackend::slice_update(const Tensor& src, Tensor& dst, int axis, int64_t start) {
  Context& c = context(device_);
  if (src.numel() == 0) return;
  if (axis < 0) axis += dst.rank();
  const Tensor s = as(src, dst.dtype(), dst.layout());
  const AxisView v = axis_view(dst, axis);
  const size_t unit = static_cast<size_t>(v.inner) * size_of(dst.dtype());
  const size_t row = static_cast<size_t>(src.dim(axis)) * unit;
  copy_rows(c, read<std::byte>(c, s), write<std::byte>(c, dst) + static_cast<size_t>(start) * unit,
            v.outer, row, row, static_cast<size_t>(v.size) * unit);
}

}  // namespace ens::cuda
