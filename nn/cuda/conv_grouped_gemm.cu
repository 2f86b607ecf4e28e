// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>

#include "nn/cuda/conv_grouped_gemm.h"
#include "nn/cuda/tensor_cores.h"

namespace ens::cuda {
namespace {

constexpr int kEdge = 16;    // of the matrices that a warp multiplies at once
constexpr int kLanes = 8;    // 16-bit elements in the 16 bytes that a thread moves at once
constexpr int kLanes8 = 16;  // of 8 bits
// A convolution as the product of [rows, depth] (pixels, gathered on the way) and [depth, o].
template <typename T, typename W>
struct Problem {
  Each<const T> x;
  Each<const W> weight;
  Each<const T> bias, z;
  Each<const float> scales;  // in float8
  Each<T> y;
  float* partial;     // [tiles, splits, tile]
  int32_t* counters;  // [tiles]
  int rows, depth, o, c, h, w, oh, ow, kw, stride, padding, dilation;
  int splits;
  bool relu, dependent;
};

// Each warp computes Tile::kDown x Tile::kAcross matrices of kEdge x kEdge; a block has
// kWarpsDown x kWarpsAcross warps. The sums advance by kDepth products at a time, of which
// kStages - 1 slabs are on their way from memory while one is multiplied.
template <int kWarpsDown_, int kWarpsAcross_, int kDown_, int kAcross_, int kDepth_, int kStages_>
struct Tile {
  static constexpr int kWarpsDown = kWarpsDown_, kWarpsAcross = kWarpsAcross_;
  static constexpr int kDown = kDown_, kAcross = kAcross_, kDepth = kDepth_, kStages = kStages_;
  static constexpr int kThreads = 32 * kWarpsDown * kWarpsAcross;
  static constexpr int kRows = kWarpsDown * kDown * kEdge;
  static constexpr int kColumns = kWarpsAcross * kAcross * kEdge;
  static constexpr int kSumLine = kColumns + 8;    // a column's sums lie in several banks
  static constexpr int kChunks = kDepth / kLanes;  // of a line
  static constexpr int kLinesAtOnce = kThreads / kChunks;
  static_assert(kRows % kLinesAtOnce == 0 && kColumns % kLinesAtOnce == 0 && kLinesAtOnce % 8 == 0);
  // Where a line of shared memory has a chunk: eight lines have theirs in different banks.
  static_assert(kChunks == 4 || kChunks == 8);
  __device__ static int place(int line, int chunk) {
    return line * kDepth + (chunk ^ (kChunks == 8 ? line & 7 : line >> 1 & 3)) * kLanes;
  }
};
// What lies in dynamic shared memory, in bytes: of each stage the pixels and behind them the
// weights; in float8 behind all stages the weights of one as 16-bit elements; in the end, instead,
// the sums.
template <typename W, typename Tile>
struct SharedBytes {
  static constexpr bool kFloat8 = std::is_same_v<W, Fp8>;
  static constexpr int kPixels = Tile::kRows * Tile::kDepth * 2;
  static constexpr int kWeights = Tile::kColumns * Tile::kDepth * static_cast<int>(sizeof(W));
  static constexpr int kStage = kPixels + kWeights;
  static constexpr int kUnpacked = kFloat8 ? Tile::kColumns * Tile::kDepth * 2 : 0;
  static constexpr int kAll =
      std::max(Tile::kStages * kStage + kUnpacked, Tile::kRows* Tile::kSumLine * 4);
  static_assert(kAll <= 99 * 1024, "what every GPU since 8.0 has for a block");
};
using Small = Tile<1, 4, 1, 1, 64, 4>;   // 16 x 64: a few pixels, long sums
using Medium = Tile<2, 2, 2, 2, 32, 4>;  // 64 x 64
using Large = Tile<2, 2, 4, 2, 32, 4>;   // 128 x 64
using Wide = Tile<2, 2, 4, 4, 32, 4>;    // 128 x 128: half of the reading of the one before
using Tall = Tile<4, 1, 4, 4, 32, 4>;    // 256 x 64: the same for few channels

__device__ inline __half2 halves(__nv_fp8x2_storage_t two) {
  return __half2(__nv_cvt_fp8x2_to_halfraw2(two, __NV_E4M3));
}

// In float8, the elements of a slab as the tensor cores take them: pixels rounded to float8s,
// weights unpacked. float16 holds every float8, and the products are then as exact as those of
// float8 tensor cores.
template <typename Tile>
__device__ void unpack_float8(__half* pixels, const Fp8* packed, __half* weights, float factor) {
  constexpr int kPairs = kLanes / 2;
  const auto place = [](__half* lines, int chunk) {
    return reinterpret_cast<Vec<__half2, kPairs>*>(
        lines + Tile::place(chunk / Tile::kChunks, chunk % Tile::kChunks));
  };
  for (int i = static_cast<int>(threadIdx.x); i < Tile::kRows * Tile::kChunks;
       i += Tile::kThreads) {
    Vec<__half2, kPairs> numbers = *place(pixels, i);
#pragma unroll
    for (__half2& two : numbers.v) {
      const float2 value = __half22float2(two);
      two = halves(__nv_cvt_float2_to_fp8x2(make_float2(value.x * factor, value.y * factor),
                                            __NV_SATFINITE, __NV_E4M3));
    }
    *place(pixels, i) = numbers;
  }
  for (int i = static_cast<int>(threadIdx.x); i < Tile::kColumns * Tile::kChunks;
       i += Tile::kThreads) {
    const auto bytes = reinterpret_cast<const Vec<__nv_fp8x2_storage_t, kPairs>*>(packed)[i];
    Vec<__half2, kPairs> numbers;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) numbers.v[j] = halves(bytes.v[j]);
    *place(weights, i) = numbers;
  }
}

// W: T, or, with T = __half, Fp8 for a convolution in float8.
template <typename T, typename W, typename Tile>
__global__ void __launch_bounds__(Tile::kThreads) grouped_gemm_kernel(Problem<T, W> p) {
  using Bytes = SharedBytes<W, Tile>;
  unsigned char* const shared = dynamic_shared();
  const auto pixels_of = [&](int stage) {
    return reinterpret_cast<T*>(shared + stage * Bytes::kStage);
  };
  const auto weights_of = [&](int stage) {
    return reinterpret_cast<W*>(shared + stage * Bytes::kStage + Bytes::kPixels);
  };
  const int thread = static_cast<int>(threadIdx.x);
  const int net = static_cast<int>(blockIdx.z) / p.splits;
  const int split = static_cast<int>(blockIdx.z) % p.splits;
  const int first_row = static_cast<int>(blockIdx.x) * Tile::kRows;
  const int first_column = static_cast<int>(blockIdx.y) * Tile::kColumns;
  const T* const x = p.x.of(net);
  const W* const weight = p.weight.of(net);
  const float* const scales = p.scales.of(net);

  // The slabs of this split.
  const int all_slabs = (p.depth + Tile::kDepth - 1) / Tile::kDepth;
  const int per_split = (all_slabs + p.splits - 1) / p.splits;
  const int begin = min(split * per_split, all_slabs), end = min(begin + per_split, all_slabs);

  // This thread loads the same chunk of some lines of every slab. Of the output pixels behind its
  // lines it keeps where their windows begin.
  constexpr int kPixels = Tile::kRows / Tile::kLinesAtOnce;
  constexpr int kKernels = Tile::kColumns / Tile::kLinesAtOnce;
  const int chunk = thread % Tile::kChunks, line = thread / Tile::kChunks;
  int window[kPixels], top[kPixels], left[kPixels];
#pragma unroll
  for (int j = 0; j < kPixels; ++j) {
    const int row = first_row + line + j * Tile::kLinesAtOnce;
    const int above = row / p.ow % p.oh * p.stride - p.padding;
    left[j] = row % p.ow * p.stride - p.padding;
    window[j] = (row / p.ow / p.oh * p.h + above) * p.w + left[j];
    top[j] = row < p.rows ? above : kNowhere;
  }
  int k = begin * Tile::kDepth + chunk * kLanes;  // the next product that this thread loads
  int channel = k % p.c, v = k / p.c % p.kw, u = k / p.c / p.kw;
  const auto fetch_pixels = [&](int stage) {
    T* const pixels = pixels_of(stage) + Tile::place(line, chunk);
    const int down = u * p.dilation, across = v * p.dilation;
    const int beyond = down * p.w + across;
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      const int r = top[j] + down, q = left[j] + across;
      const bool there = k < p.depth && r >= 0 && r < p.h && q >= 0 && q < p.w;
      const int at = there ? (window[j] + beyond) * p.c + channel : 0;
      copy_through_l1(pixels + j * Tile::kLinesAtOnce * Tile::kDepth, x + at, there);
    }
    k += Tile::kDepth;
    channel += Tile::kDepth;
    while (channel >= p.c) {
      channel -= p.c;
      if (++v == p.kw) v = 0, ++u;
    }
  };
  const auto fetch_weights = [&](int slab, int stage) {
    const int first_k = slab * Tile::kDepth;
    if constexpr (Bytes::kFloat8) {
      constexpr int kChunks8 = Tile::kDepth / kLanes8;
      for (int i = thread; i < Tile::kColumns * kChunks8; i += Tile::kThreads) {
        const int column = first_column + i / kChunks8, from = first_k + i % kChunks8 * kLanes8;
        const bool there = column < p.o && from < p.depth;
        const int64_t at = there ? static_cast<int64_t>(column) * p.depth + from : 0;
        __pipeline_memcpy_async(weights_of(stage) + i * kLanes8, weight + at, 16, there ? 0 : 16);
      }
    } else {
      const int mine = first_k + chunk * kLanes;
      T* const kernels = weights_of(stage) + Tile::place(line, chunk);
#pragma unroll
      for (int j = 0; j < kKernels; ++j) {
        const int column = first_column + line + j * Tile::kLinesAtOnce;
        const bool there = column < p.o && mine < p.depth;
        const int64_t at = there ? static_cast<int64_t>(column) * p.depth + mine : 0;
        __pipeline_memcpy_async(kernels + j * Tile::kLinesAtOnce * Tile::kDepth, weight + at, 16,
                                there ? 0 : 16);
      }
    }
  };

  const int warp = thread / 32, lane = thread % 32;
  const int down = warp % Tile::kWarpsDown * Tile::kDown * kEdge;
  const int across = warp / Tile::kWarpsDown * Tile::kAcross * kEdge;
  float sums[Tile::kDown][Tile::kAcross][2][4] = {};  // 16 x 16 each, as two of 16 x 8
  for (int i = 0; i < Tile::kStages - 1; ++i) {
    if (p.dependent && begin + i < end) fetch_weights(begin + i, i);  // which nobody writes
  }
  grid_dependency_sync();
  for (int i = 0; i < Tile::kStages - 1; ++i) {
    if (begin + i < end) {
      if (!p.dependent) fetch_weights(begin + i, i);
      fetch_pixels(i);
    }
    __pipeline_commit();
  }
  for (int i = begin; i < end; ++i) {
    __pipeline_wait_prior(Tile::kStages - 2);
    __syncthreads();  // slab i is there for all, and all have done with the one before it
    if (const int next = i + Tile::kStages - 1; next < end) {
      fetch_weights(next, (next - begin) % Tile::kStages);
      fetch_pixels((next - begin) % Tile::kStages);
    }
    __pipeline_commit();
    const int stage = (i - begin) % Tile::kStages;
    const T* const pixels = pixels_of(stage);
    const T* kernels;
    if constexpr (Bytes::kFloat8) {
      T* const unpacked = reinterpret_cast<T*>(shared + Tile::kStages * Bytes::kStage);
      unpack_float8<Tile>(pixels_of(stage), weights_of(stage), unpacked, scales[p.o]);
      __syncthreads();
      kernels = unpacked;
    } else {
      kernels = weights_of(stage);
    }
#pragma unroll
    for (int d = 0; d < Tile::kDepth; d += kEdge) {
      uint32_t a[Tile::kDown][4], b[Tile::kAcross][4];
#pragma unroll
      for (int m = 0; m < Tile::kDown; ++m) {
        const int row = down + m * kEdge + lane % 16;
        load_matrices(a[m], pixels + Tile::place(row, d / kLanes + lane / 16));
      }
#pragma unroll
      for (int n = 0; n < Tile::kAcross; ++n) {
        const int row = across + n * kEdge + lane / 16 * 8 + lane % 8;
        load_matrices(b[n], kernels + Tile::place(row, d / kLanes + lane / 8 % 2));
      }
#pragma unroll
      for (int m = 0; m < Tile::kDown; ++m) {
#pragma unroll
        for (int n = 0; n < Tile::kAcross; ++n) {
          multiply_add<T>(sums[m][n][0], a[m], {b[n][0], b[n][1]});
          multiply_add<T>(sums[m][n][1], a[m], {b[n][2], b[n][3]});
        }
      }
    }
  }
  __pipeline_wait_prior(0);
  __syncthreads();
  float* const tile = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int m = 0; m < Tile::kDown; ++m) {
#pragma unroll
    for (int n = 0; n < 2 * Tile::kAcross; ++n) {
      const float(&d)[4] = sums[m][n / 2][n % 2];
      float* const to =
          tile + (down + m * kEdge + lane / 4) * Tile::kSumLine + across + n * 8 + lane % 4 * 2;
      to[0] = d[0];
      to[1] = d[1];
      to[8 * Tile::kSumLine] = d[2];
      to[8 * Tile::kSumLine + 1] = d[3];
    }
  }
  __syncthreads();

  constexpr int kNumbers = Tile::kRows * Tile::kColumns;
  const auto place_of_sum = [](int i) {
    return i / Tile::kColumns * Tile::kSumLine + i % Tile::kColumns;
  };
  if (p.splits > 1) {
    // The block that comes last adds up what all have left, in a fixed order.
    const int64_t number =
        (static_cast<int64_t>(net) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    float* const parts = p.partial + number * p.splits * kNumbers;
    for (int i = 4 * thread; i < kNumbers; i += 4 * Tile::kThreads) {
      *reinterpret_cast<float4*>(parts + split * kNumbers + i) =
          *reinterpret_cast<const float4*>(tile + place_of_sum(i));
    }
    if (!is_last_block(p.counters + number, p.splits, thread == 0)) return;
#pragma unroll 4
    for (int i = 4 * thread; i < kNumbers; i += 4 * Tile::kThreads) {
      float4 sum{};
      for (int s = 0; s < p.splits; ++s) {
        const float4 part = *reinterpret_cast<const float4*>(parts + s * kNumbers + i);
        sum.x += part.x;
        sum.y += part.y;
        sum.z += part.z;
        sum.w += part.w;
      }
      *reinterpret_cast<float4*>(tile + place_of_sum(i)) = sum;
    }
    __syncthreads();
  }

  for (int i = thread; i < kNumbers / kLanes; i += Tile::kThreads) {
    const int row = i / (Tile::kColumns / kLanes), column = i % (Tile::kColumns / kLanes) * kLanes;
    if (first_row + row >= p.rows || first_column + column >= p.o) continue;
    const int64_t at = static_cast<int64_t>(first_row + row) * p.o + first_column + column;
    const auto bias =
        *reinterpret_cast<const Vec<T, kLanes>*>(p.bias.of(net) + first_column + column);
    Vec<T, kLanes> z{};
    if (p.z.data) z = *reinterpret_cast<const Vec<T, kLanes>*>(p.z.of(net) + at);
    Vec<T, kLanes> y;
#pragma unroll
    for (int j = 0; j < kLanes; ++j) {
      float sum = tile[row * Tile::kSumLine + column + j];
      if constexpr (Bytes::kFloat8) sum *= scales[first_column + column + j];
      sum += load(bias.v[j]);
      if (p.z.data) sum += load(z.v[j]);
      store(&y.v[j], p.relu ? fmaxf(sum, 0.0f) : sum);
    }
    *reinterpret_cast<Vec<T, kLanes>*>(p.y.of(net) + at) = y;
  }
}

struct Variant {
  int rows, columns, depth, splits;
};
template <typename Tile>
constexpr Variant variant_of(int splits) {
  return {Tile::kRows, Tile::kColumns, Tile::kDepth, splits};
}
constexpr std::array<Variant, kGroupedGemmVariants> kVariants = {
    variant_of<Small>(1),  variant_of<Small>(4),  variant_of<Small>(16), variant_of<Medium>(1),
    variant_of<Medium>(2), variant_of<Medium>(8), variant_of<Large>(1),  variant_of<Large>(2),
    variant_of<Large>(4),  variant_of<Wide>(1),   variant_of<Wide>(2),   variant_of<Wide>(4),
    variant_of<Tall>(1)};

const Variant& variant_at(int variant) { return kVariants.at(static_cast<size_t>(variant)); }

int64_t tiles(const NetConv& c, const Variant& v) {
  return c.nets * ((c.rows() + v.rows - 1) / v.rows) * ((c.o + v.columns - 1) / v.columns);
}

template <typename T, typename W>
Problem<T, W> problem_of(const NetConv& c, int splits, std::byte* scratch, int32_t* counters,
                         bool dependent) {
  const auto i = [](int64_t n) { return static_cast<int>(n); };
  return {each<const T>(c.x),
          each<const W>(c.weight),
          each<const T>(c.bias),
          each<const T>(c.z),
          each<const float>(c.scales),
          each<T>(c.y),
          reinterpret_cast<float*>(scratch),
          counters,
          i(c.rows()),
          i(c.depth()),
          i(c.o),
          i(c.c),
          i(c.h),
          i(c.w),
          i(c.oh),
          i(c.ow),
          i(c.kw),
          c.spec.stride,
          c.spec.padding,
          c.spec.dilation,
          splits,
          c.relu,
          dependent};
}

}  // namespace

bool can_do_grouped_gemm(const NetConv& c) {
  const int64_t lanes = c.float8 ? kLanes8 : kLanes;
  return c.dtype != Dtype::kF32 && (!c.float8 || c.dtype == Dtype::kF16) && c.spec.groups == 1 &&
         c.c % lanes == 0 && c.o % lanes == 0 && c.rows() < (int64_t{1} << 30) &&
         c.batch * c.h * c.w * c.c < (int64_t{1} << 31) && c.depth() < (int64_t{1} << 30);
}

bool suits_grouped_gemm(const NetConv& c, int variant) {
  const Variant& v = variant_at(variant);
  if (c.rows() > 4096 * v.rows) return false;
  if (v.rows == Small::kRows ? c.rows() > 4 * v.rows : c.rows() < v.rows / 2) return false;
  if (v.columns > Small::kColumns && c.o <= v.columns / 2) return false;
  if (v.splits == 1) return true;
  // A GPU has some 130 multiprocessors that take several blocks each: more need no splitting.
  return tiles(c, v) < 512 && c.depth() >= 4 * v.depth * v.splits;
}

size_t grouped_gemm_scratch(const NetConv& c, int variant) {
  const Variant& v = variant_at(variant);
  if (v.splits == 1) return 0;
  return static_cast<size_t>(tiles(c, v) * v.splits * v.rows * v.columns) * sizeof(float);
}

int64_t grouped_gemm_counters(const NetConv& c, int variant) {
  return tiles(c, variant_at(variant));
}

void conv_grouped_gemm(const NetConv& c, int variant, std::byte* scratch, int32_t* counters,
                       Launch how) {
  const Variant& v = variant_at(variant);
  const dim3 grid(static_cast<unsigned>((c.rows() + v.rows - 1) / v.rows),
                  static_cast<unsigned>((c.o + v.columns - 1) / v.columns),
                  static_cast<unsigned>(c.nets * v.splits));
  const auto run = [&]<typename T, typename W>(T, W) {
    const Problem<T, W> p = problem_of<T, W>(c, v.splits, scratch, counters, how.dependent);
    const auto with = [&]<typename Tile>(Tile) {
      launch(grouped_gemm_kernel<T, W, Tile>, grid, dim3(Tile::kThreads),
             SharedBytes<W, Tile>::kAll, how, p);
    };
    if (v.rows == Small::kRows) return with(Small{});
    if (v.rows == Medium::kRows) return with(Medium{});
    if (v.rows == Tall::kRows) return with(Tall{});
    if (v.columns == Wide::kColumns) return with(Wide{});
    with(Large{});
  };
  if (c.float8) {
    run(__half{}, Fp8{});
  } else if (c.dtype == Dtype::kF16) {
    run(__half{}, __half{});
  } else {
    run(__nv_bfloat16{}, __nv_bfloat16{});
  }
}

}  // namespace ens::cuda
