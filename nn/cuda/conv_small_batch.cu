// SPDX-License-Identifier: Apache-2.0
#include <type_traits>

#include "nn/cuda/conv_small_batch.h"
#include "nn/cuda/tensor_cores.h"

namespace ens::cuda {
namespace {

constexpr int kWarpsOfBlock = 4;  // each sums a part of the products
constexpr int kChannels = 16;     // output channels of a block
constexpr int kStep = 32;         // products of a sum that a warp does at once
constexpr int kPixels = 8;        // that the tensor cores take at once

template <typename T>
struct Problem {
  Each<const T> x, weight, bias, z;
  Each<T> y;
  int rows, depth, o, c, h, w, oh, ow, stride, padding, dilation;
  Divisor by_steps_of_tap, by_kw;
  bool relu, dependent;
};

// What a warp reads for a step: 16 bytes for each lane of two rows of weights and of kTiles pixels.
template <int kTiles>
using Slab = uint4[2 + kTiles][32];
// Slabs of which all but one are on their way while that one is multiplied: what 48 KiB hold.
template <int kTiles>
constexpr int kSlabs = 48 * 1024 / (kWarpsOfBlock * static_cast<int>(sizeof(Slab<kTiles>)));

// A block: kChannels output channels of kTiles * kPixels pixels (blockIdx.x, .y) of a net (.z).
template <typename T, int kTiles>
__global__ void __launch_bounds__(32 * kWarpsOfBlock) small_batch_kernel(Problem<T> p) {
  using Sums = float[kTiles * kPixels][kChannels + 1];
  constexpr int kAll = kSlabs<kTiles>;
  __shared__ Slab<kTiles> slabs[kWarpsOfBlock][kAll];
  static_assert(sizeof(Sums) * kWarpsOfBlock <= sizeof slabs);
  const int net = static_cast<int>(blockIdx.z);
  const int o = static_cast<int>(blockIdx.x) * kChannels;
  const int first_pixel = static_cast<int>(blockIdx.y) * kTiles * kPixels;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;

  // This lane's pixels: where their windows begin.
  const T* image[kTiles];
  int top[kTiles], left[kTiles];
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    const int wanted = first_pixel + j * kPixels + g, pixel = min(wanted, p.rows - 1);
    const int line = pixel / p.ow;
    top[j] = wanted < p.rows ? line % p.oh * p.stride - p.padding : kNowhere;
    left[j] = pixel % p.ow * p.stride - p.padding;
    image[j] = p.x.of(net) + static_cast<int64_t>(line / p.oh) * p.h * p.w * p.c + t * 8;
  }
  const T* weight = p.weight.of(net) + static_cast<int64_t>(o + g) * p.depth + t * 8;
  const int64_t below = static_cast<int64_t>(8) * p.depth;
  const int steps = p.depth / kStep;
  const int begin = steps * warp / kWarpsOfBlock, end = steps * (warp + 1) / kWarpsOfBlock;

  // A lane reads back what it has asked for itself: no barriers.
  const auto ask_weights = [&](int step) {
    if (step >= end) return;
    Slab<kTiles>& slab = slabs[warp][step % kAll];
    const T* from = weight + step * kStep;
    __pipeline_memcpy_async(&slab[0][lane], from, 16);
    __pipeline_memcpy_async(&slab[1][lane], from + below, 16);
  };
  const auto ask_pixels = [&](int step) {
    if (step < end) {
      Slab<kTiles>& slab = slabs[warp][step % kAll];
      const int tap = p.by_steps_of_tap.quotient(step), channel = step * kStep - tap * p.c;
      const int down = p.by_kw.quotient(tap);
      const int across = tap - down * static_cast<int>(p.by_kw.by);
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        const int row = top[j] + down * p.dilation, column = left[j] + across * p.dilation;
        const bool inside = row >= 0 && row < p.h && column >= 0 && column < p.w;
        const int at = inside ? (row * p.w + column) * p.c + channel : 0;
        __pipeline_memcpy_async(&slab[2 + j][lane], image[j] + at, 16, inside ? 0 : 16);
      }
    }
    __pipeline_commit();
  };
#pragma unroll
  for (int i = 0; i < kAll - 1; ++i) {
    if (p.dependent) ask_weights(begin + i);  // which nobody writes
  }
  grid_dependency_sync();
#pragma unroll
  for (int i = 0; i < kAll - 1; ++i) {
    if (!p.dependent) ask_weights(begin + i);
    ask_pixels(begin + i);
  }
  float d[kTiles][4] = {};
  for (int step = begin; step < end; ++step) {
    ask_weights(step + kAll - 1);
    ask_pixels(step + kAll - 1);
    __pipeline_wait_prior(kAll - 1);
    __syncwarp();  // so that the compiler reads after the wait
    const Slab<kTiles>& slab = slabs[warp][step % kAll];
    const uint4 above = slab[0][lane], under = slab[1][lane];
    const uint32_t a[2][4] = {{above.x, under.x, above.y, under.y},
                              {above.z, under.z, above.w, under.w}};
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const uint4 pixel = slab[2 + j][lane];
      multiply_add<T>(d[j], a[0], {pixel.x, pixel.y});
      multiply_add<T>(d[j], a[1], {pixel.z, pixel.w});
    }
  }
  __pipeline_wait_prior(0);
  __syncthreads();  // from here on the memory holds sums

  auto* sums = reinterpret_cast<Sums*>(&slabs[0][0]);
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    float(*to)[kChannels + 1] = &sums[warp][j * kPixels + 2 * t];
    to[0][g] = d[j][0];
    to[1][g] = d[j][1];
    to[0][g + 8] = d[j][2];
    to[1][g + 8] = d[j][3];
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kTiles * kPixels * kChannels;
       i += 32 * kWarpsOfBlock) {
    const int pixel = i / kChannels, channel = i % kChannels;
    if (first_pixel + pixel >= p.rows) break;
    float sum = load(p.bias.of(net)[o + channel]);
#pragma unroll
    for (int k = 0; k < kWarpsOfBlock; ++k) sum += sums[k][pixel][channel];
    const int64_t at = static_cast<int64_t>(first_pixel + pixel) * p.o + o + channel;
    if (p.z.data) sum += load(p.z.of(net)[at]);
    store(p.y.of(net) + at, p.relu && sum < 0.0f ? 0.0f : sum);
  }
}

int pixels_of(int variant) { return kPixels << variant; }

template <typename T>
Problem<T> problem_of(const NetConv& c, bool dependent) {
  const auto i = [](int64_t n) { return static_cast<int>(n); };
  return {each<const T>(c.x),
          each<const T>(c.weight),
          each<const T>(c.bias),
          each<const T>(c.z),
          each<T>(c.y),
          i(c.rows()),
          i(c.depth()),
          i(c.o),
          i(c.c),
          i(c.h),
          i(c.w),
          i(c.oh),
          i(c.ow),
          c.spec.stride,
          c.spec.padding,
          c.spec.dilation,
          Divisor(i(c.c / kStep)),
          Divisor(i(c.kw)),
          c.relu,
          dependent};
}

}  // namespace

bool can_do_small_batch(const NetConv& c) {
  return (c.dtype == Dtype::kF16 || c.dtype == Dtype::kBF16) && !c.float8 && c.spec.groups == 1 &&
         c.c % kStep == 0 && c.o % kChannels == 0 && c.rows() < (1 << 16) &&
         c.h * c.w * c.c < (1 << 28) && c.depth() < (1 << 20);
}

bool suits_small_batch(const NetConv& c, int variant) {
  const int64_t pixels = pixels_of(variant);
  if (variant > 0 && pixels >= 2 * c.rows()) return false;
  return c.rows() <= 16 * pixels;
}

void conv_small_batch(const NetConv& c, int variant, Launch how) {
  const dim3 grid(static_cast<unsigned>(c.o / kChannels),
                  static_cast<unsigned>((c.rows() + pixels_of(variant) - 1) / pixels_of(variant)),
                  static_cast<unsigned>(c.nets));
  const auto run = [&]<typename T>(T) {
    const auto with = [&]<int kTiles>(std::integral_constant<int, kTiles>) {
      launch(small_batch_kernel<T, kTiles>, grid, 32 * kWarpsOfBlock, 0, how,
             problem_of<T>(c, how.dependent));
    };
    switch (variant) {
      case 0:
        return with(std::integral_constant<int, 1>{});
      case 1:
        return with(std::integral_constant<int, 2>{});
      case 2:
        return with(std::integral_constant<int, 4>{});
      default:
        return with(std::integral_constant<int, 8>{});
    }
  };
  if (c.dtype == Dtype::kF16) {
    run(__half{});
  } else {
    run(__nv_bfloat16{});
  }
}

}  // namespace ens::cuda
