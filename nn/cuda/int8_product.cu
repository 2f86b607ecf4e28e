// SPDX-License-Identifier: Apache-2.0
// Exact products of 8-bit integers on tensor cores. A matrix product is a convolution with a kernel
// of 1x1 over an image of one row, whose pixels are the columns of b.
//
// Both factors are first packed with the channels of a pixel, or of a tap, next to each other, in
// pieces of 16 bytes with zeros at the end. A block then computes kRows output channels by kColumns
// pixels of all images; what it multiplies it copies to shared memory piece by piece (implicit
// im2col). Groups of few channels would multiply zeros mostly; they are computed directly.
#include "nn/core/int8_product.h"
#include "nn/cuda/cuda_backend.h"
#include "nn/cuda/kernels.h"
#include "nn/cuda/tensor_cores.h"

namespace ens::cuda {
namespace {

constexpr int kPiece = 16;      // bytes
constexpr int kColumns = 128;   // of a block
constexpr int kStepPieces = 4;  // of each row and column, that a step multiplies
constexpr int kStages = 3;      // steps in shared memory
constexpr int kFewChannels = 16;

struct Geometry {
  int images, groups, channels, height, width;  // channels of a group
  int rows;                                     // output channels of a group
  int kernel_height, kernel_width, out_height, out_width;
  int stride = 1, padding = 0, dilation = 1;

  int taps() const { return kernel_height * kernel_width; }
  __device__ __host__ int pieces() const { return (channels + kPiece - 1) / kPiece; }
  __device__ __host__ int64_t pixels() const { return int64_t{out_height} * out_width; }
};

// A factor: [outer][channels][inner] elements in memory, with these distances between them.
struct Factor {
  const void* data;
  bool is_unsigned;
  int64_t outer, channel, inner;
};

// A thread for each output, of which there are `outputs`. W and X are int8_t or uint8_t.
template <typename W, typename X>
__global__ void direct_kernel(Geometry g, const W* w, const X* x, int32_t* y, int64_t outputs) {
  const int64_t taps = int64_t{g.kernel_height} * g.kernel_width, map = int64_t{g.height} * g.width;
  for (int64_t i = thread_index(); i < outputs; i += item_stride()) {
    const int column = static_cast<int>(i % g.out_width);
    const int row = static_cast<int>(i / g.out_width % g.out_height);
    const int64_t plane = i / g.pixels();
    const int64_t group = plane / g.rows;  // of all images
    const W* weight = w + plane % (g.groups * g.rows) * g.channels * taps;
    int32_t sum = 0;
    for (int kr = 0; kr < g.kernel_height; ++kr) {
      const int r = row * g.stride - g.padding + kr * g.dilation;
      if (r < 0 || r >= g.height) continue;
      for (int kc = 0; kc < g.kernel_width; ++kc) {
        const int c = column * g.stride - g.padding + kc * g.dilation;
        if (c < 0 || c >= g.width) continue;
        const X* from = x + group * g.channels * map + int64_t{r} * g.width + c;
        for (int k = 0; k < g.channels; ++k) {
          sum += from[k * map] * weight[k * taps + kr * g.kernel_width + kc];
        }
      }
    }
    y[i] = sum;
  }
}

// [outer][inner][channels in whole pieces]; a thread for each piece. Threads follow the memory.
__global__ void pack_kernel(const uint8_t* from, Factor f, int64_t inner, int channels, int pieces,
                            uint8_t* to, int64_t all) {
  for (int64_t i = thread_index(); i < all; i += item_stride()) {
    const int64_t outer = i / (inner * pieces), at = i % (inner * pieces);
    const bool channels_first = f.channel == 1;
    const int piece = static_cast<int>(channels_first ? at % pieces : at / inner);
    const int64_t place = channels_first ? at / pieces : at % inner;
    Vec<uint8_t, kPiece> out;
    for (int k = 0; k < kPiece; ++k) {
      const int channel = piece * kPiece + k;
      out.v[k] = channel < channels ? from[outer * f.outer + channel * f.channel + place * f.inner]
                                    : uint8_t{0};
    }
    const int64_t line = (outer * inner + place) * pieces + piece;
    *reinterpret_cast<Vec<uint8_t, kPiece>*>(to + line * kPiece) = out;
  }
}

// A place in shared memory: rows of 64 bytes, whose pieces are exchanged so that eight rows of one
// piece lie in different banks.
__device__ inline unsigned char* piece_at(unsigned char* tile, int row, int piece) {
  return tile + (row * kStepPieces + ((piece ^ (row >> 1)) & 3)) * kPiece;
}

template <typename W, typename X, int kRows>
__global__ void __launch_bounds__(256)
    multiply_kernel(Geometry g, const uint8_t* w, const uint8_t* x, int32_t* y, int row_tiles) {
  constexpr int kStage = (kRows + kColumns) * kStepPieces * kPiece;
  constexpr int kWarpRows = kRows / 2, kWarpColumns = kColumns / 4;
  constexpr int kA = kWarpRows / 16, kB = kWarpColumns / 8;
  unsigned char* const shared = dynamic_shared();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int first_row = static_cast<int>(blockIdx.x) % row_tiles * kRows;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) / row_tiles * kColumns;
  const int64_t columns = g.images * g.pixels();
  const int group = static_cast<int>(blockIdx.y), pieces = g.pieces();
  const int depth = g.kernel_height * g.kernel_width * pieces;  // in pieces

  // What this thread copies in every step: piece thread % 4 of some rows, and of two columns.
  const int piece = thread % kStepPieces, line = thread / kStepPieces;
  constexpr int kLines = 256 / kStepPieces;
  int top[2], left[2];
  const uint8_t* image[2];
  for (int i = 0; i < 2; ++i) {
    const int64_t column = first_column + line + i * kLines;
    const int64_t place = column % g.pixels();
    const int64_t which = column < columns ? column / g.pixels() : 0;
    top[i] = column < columns ? static_cast<int>(place / g.out_width) * g.stride - g.padding
                              : -(1 << 30);  // outside, whatever the tap
    left[i] = static_cast<int>(place % g.out_width) * g.stride - g.padding;
    image[i] = x + (which * g.groups + group) * g.height * g.width * pieces * kPiece;
  }
  int channel = piece, tap_row = 0, tap_column = 0;  // of the next step's piece
  const auto wrap = [&] {
    while (channel >= pieces) {
      channel -= pieces;
      if (++tap_column < g.kernel_width) continue;
      tap_column = 0;
      ++tap_row;
    }
  };
  wrap();
  const auto copy = [&](int step) {
    unsigned char* const a = shared + step % kStages * kStage;
    unsigned char* const b = a + kRows * kStepPieces * kPiece;
    const int at = step * kStepPieces + piece;
    for (int i = 0; i < kRows / kLines; ++i) {
      const int row = first_row + line + i * kLines;
      const bool there = row < g.rows && at < depth;
      const int64_t from = there ? (int64_t{group} * g.rows + row) * depth + at : 0;
      __pipeline_memcpy_async(piece_at(a, line + i * kLines, piece), w + from * kPiece, kPiece,
                              there ? 0 : kPiece);
    }
    for (int i = 0; i < 2; ++i) {
      const int r = top[i] + tap_row * g.dilation, c = left[i] + tap_column * g.dilation;
      const bool there = at < depth && r >= 0 && r < g.height && c >= 0 && c < g.width;
      const int64_t from = there ? (int64_t{r} * g.width + c) * pieces + channel : 0;
      __pipeline_memcpy_async(piece_at(b, line + i * kLines, piece), image[i] + from * kPiece,
                              kPiece, there ? 0 : kPiece);
    }
    channel += kStepPieces;
    wrap();
  };

  const int warp_row = warp % 2 * kWarpRows, warp_column = warp / 2 * kWarpColumns;
  int32_t sums[kA][kB][4] = {};
  const int steps = (depth + kStepPieces - 1) / kStepPieces;
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) copy(step);
    __pipeline_commit();
  }
  for (int step = 0; step < steps; ++step) {
    __pipeline_wait_prior(kStages - 2);
    __syncthreads();
    if (step + kStages - 1 < steps) copy(step + kStages - 1);
    __pipeline_commit();
    unsigned char* const a = shared + step % kStages * kStage;
    unsigned char* const b = a + kRows * kStepPieces * kPiece;
#pragma unroll
    for (int k = 0; k < kStepPieces; k += 2) {
      uint32_t rows[kA][4], cols[kB / 2][4];
#pragma unroll
      for (int i = 0; i < kA; ++i) {
        load_matrices(rows[i], piece_at(a, warp_row + i * 16 + lane % 16, k + lane / 16));
      }
#pragma unroll
      for (int i = 0; i < kB / 2; ++i) {
        load_matrices(cols[i], piece_at(b, warp_column + i * 16 + lane / 16 * 8 + lane % 8,
                                        k + lane / 8 % 2));
      }
#pragma unroll
      for (int i = 0; i < kA; ++i) {
#pragma unroll
        for (int j = 0; j < kB; ++j) {
          const uint32_t pair[2] = {cols[j / 2][j % 2 * 2], cols[j / 2][j % 2 * 2 + 1]};
          multiply_add<W, X>(sums[i][j], rows[i], pair);
        }
      }
    }
  }
  for (int j = 0; j < kB; ++j) {
    for (int k = 0; k < 2; ++k) {
      const int64_t column = first_column + warp_column + j * 8 + lane % 4 * 2 + k;
      if (column >= columns) continue;
      const int64_t plane = (column / g.pixels() * g.groups + group) * g.rows;
      int32_t* const out = y + plane * g.pixels() + column % g.pixels();
      for (int i = 0; i < kA; ++i) {
        for (int half = 0; half < 2; ++half) {
          const int row = first_row + warp_row + i * 16 + half * 8 + lane / 4;
          if (row < g.rows) out[row * g.pixels()] = sums[i][j][half * 2 + k];
        }
      }
    }
  }
}

// f(W{}, X{}) with the types of the weight's and the image's elements.
template <typename F>
void with_types(bool unsigned_w, bool unsigned_x, F&& f) {
  if (unsigned_w) return f(uint8_t{}, int8_t{});
  if (unsigned_x) return f(int8_t{}, uint8_t{});
  return f(int8_t{}, int8_t{});
}

// [outer][inner] of pieces: f itself if it is that already.
std::shared_ptr<const void> pack(Context& c, const Factor& f, int64_t outer, int64_t inner,
                                 int channels) {
  const int pieces = (channels + kPiece - 1) / kPiece;
  const auto* from = static_cast<const uint8_t*>(f.data);
  if (f.channel == 1 && channels % kPiece == 0 && (inner == 1 || f.inner == channels) &&
      aligned(from) && (outer == 1 || f.outer == inner * channels)) {
    return {std::shared_ptr<void>(), from};
  }
  const int64_t all = outer * inner * pieces;
  auto packed = c.allocate(static_cast<size_t>(all * kPiece));
  launch(pack_kernel, blocks_for(all), kThreads, 0, c.stream, from, f, inner, channels, pieces,
         static_cast<uint8_t*>(packed.get()), all);
  return packed;
}

void multiply(Context& c, const Geometry& g, const Factor& w, const Factor& x, int32_t* y) {
  const int64_t columns = g.images * g.pixels();
  const auto wide = pack(c, w, int64_t{g.groups} * g.rows, g.taps(), g.channels);
  const auto image =
      pack(c, x, int64_t{g.images} * g.groups, int64_t{g.height} * g.width, g.channels);
  with_types(w.is_unsigned, x.is_unsigned, [&]<typename W, typename X>(W, X) {
    const auto run = [&]<int kRows>(std::integral_constant<int, kRows>) {
      const int row_tiles = (g.rows + kRows - 1) / kRows;
      const int64_t blocks = (columns + kColumns - 1) / kColumns * row_tiles;
      launch(multiply_kernel<W, X, kRows>,
             dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(g.groups)), 256,
             size_t{kStages} * (kRows + kColumns) * kStepPieces * kPiece, c.stream, g,
             static_cast<const uint8_t*>(wide.get()), static_cast<const uint8_t*>(image.get()), y,
             row_tiles);
    };
    if (g.rows > 64) {
      run(std::integral_constant<int, 128>{});
    } else {
      run(std::integral_constant<int, 64>{});
    }
  });
}

int size(int64_t n) { return static_cast<int>(n); }

}  // namespace

Tensor CudaBackend::conv2d_s8(const Tensor& x, const Tensor& w, const ConvSpec& spec) {
  const Shape shape = conv2d_s8_shape(x, w, spec);
  Tensor y = Tensor::empty(shape, Dtype::kI32, device());
  if (x.numel() == 0 || w.numel() == 0) y.fill(0);
  if (x.numel() == 0 || w.numel() == 0) return y;
  const Geometry g{.images = size(x.dim(0)),
                   .groups = spec.groups,
                   .channels = size(w.dim(1)),
                   .height = size(x.dim(2)),
                   .width = size(x.dim(3)),
                   .rows = size(w.dim(0) / spec.groups),
                   .kernel_height = size(w.dim(2)),
                   .kernel_width = size(w.dim(3)),
                   .out_height = size(shape[2]),
                   .out_width = size(shape[3]),
                   .stride = spec.stride,
                   .padding = spec.padding,
                   .dilation = spec.dilation};
  Context& c = context(device_);
  const Tensor source = x.plain();
  const bool is_unsigned = x.dtype() == Dtype::kU8;
  auto* to = write<int32_t>(c, y);
  if (g.groups > 1 && g.channels < kFewChannels) {
    with_types(false, is_unsigned, [&]<typename W, typename X>(W, X) {
      launch(direct_kernel<W, X>, blocks_for(y.numel()), kThreads, 0, c.stream, g,
             static_cast<const W*>(read_raw(c, w)), static_cast<const X*>(read_raw(c, source)), to,
             y.numel());
    });
    return y;
  }
  const int64_t map = x.dim(2) * x.dim(3);
  multiply(c, g, {read_raw(c, w), false, w.dim(1) * g.taps(), g.taps(), 1},
           {read_raw(c, source), is_unsigned, w.dim(1) * map, map, 1}, to);
  return y;
}

Tensor CudaBackend::gemm_s8(bool transpose_a, bool transpose_b, const Tensor& a, const Tensor& b) {
  const Shape shape = gemm_s8_shape(transpose_a, transpose_b, a, b);
  Tensor c = Tensor::empty(shape, Dtype::kI32, device());
  if (a.numel() == 0 || b.numel() == 0) c.fill(0);
  if (a.numel() == 0 || b.numel() == 0) return c;
  const int64_t m = shape[0], n = shape[1], depth = a.numel() / m;
  const Geometry g{.images = 1,
                   .groups = 1,
                   .channels = size(depth),
                   .height = 1,
                   .width = size(n),
                   .rows = size(m),
                   .kernel_height = 1,
                   .kernel_width = 1,
                   .out_height = 1,
                   .out_width = size(n)};
  Context& ctx = context(device_);
  const void* from = read_raw(ctx, a);
  const bool is_unsigned = a.dtype() == Dtype::kU8;
  multiply(
      ctx, g,
      transpose_a ? Factor{from, is_unsigned, 1, m, 1} : Factor{from, is_unsigned, depth, 1, depth},
      transpose_b ? Factor{read_raw(ctx, b), false, 0, 1, depth}
                  : Factor{read_raw(ctx, b), false, 0, n, 1},
      write<int32_t>(ctx, c));
  return c;
}

}  // namespace ens::cuda
