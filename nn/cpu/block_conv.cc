#include "nn/cpu/block_conv.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "nn/cpu/allocator.h"
#include "nn/cpu/dnnl_util.h"
#include "nn/cpu/simd.h"
#include "nn/cpu/threads.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define ENS_AVX2 __attribute__((target("avx2,fma")))
#endif

namespace ens::cpu {
namespace {

constexpr int64_t kLanes = 8;   // channels of a block
constexpr int64_t kPanel = 16;  // output channels computed together
constexpr int kRows = 6;        // output pixels computed together: with two vectors each, 12 sums
constexpr int64_t kNone = std::numeric_limits<int64_t>::min();

// Below so many output pixels rows are images, from so many images on.
constexpr int64_t kSmallMap = 36;
constexpr int64_t kManyImages = 4;
constexpr int64_t kCopyBytes = 256 << 10;  // of the input at once: half the second-level cache

#if defined(__x86_64__)

template <typename W>
struct Product {  // what the rows of one call have in common
  const float* from;
  int64_t blocks, block_stride;
  const int64_t* tap_from;
  const int64_t* tap_weight;
  int64_t taps;
  const W* weight;    // of the panel
  const float* bias;  // of the panel, or null
  bool relu;
  int64_t out_stride;  // from one block of output channels to the next
};

// sum += a * b, in the register of the sum: left to itself GCC 12 moves sums between registers, of
// which there are too few for that, and takes a third longer.
ENS_AVX2 inline __attribute__((always_inline)) void add_product(__m256& sum, __m256 a, __m256 b) {
  __asm__ volatile("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
}

// A panel's weights of one input channel.
ENS_AVX2 inline __attribute__((always_inline)) void load_weights(const float* w, __m256& low,
                                                                 __m256& high) {
  low = _mm256_loadu_ps(w);
  high = _mm256_loadu_ps(w + kLanes);
}
// In bfloat16 the two halves of a panel alternate: a number is the upper half of a float32.
ENS_AVX2 inline __attribute__((always_inline)) void load_weights(const BFloat16* w, __m256& low,
                                                                 __m256& high) {
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
  low = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
  high = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(-0x10000)));
}

// R rows at from[r] by one panel; results go to out[r], with sum[r] added unless sum is null.
template <int R, typename W>
ENS_AVX2 void multiply(const Product<W>& p, const int64_t* from, float* const* out,
                       const float* const* sum) {
  __m256 low[R], high[R];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    low[r] = p.bias ? _mm256_loadu_ps(p.bias) : _mm256_setzero_ps();
    high[r] = p.bias ? _mm256_loadu_ps(p.bias + kLanes) : _mm256_setzero_ps();
  }
  for (int64_t t = 0; t < p.taps; ++t) {
    const W* w = p.weight + p.tap_weight[t];
    const float* row[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) row[r] = p.from + p.tap_from[t] + from[r];
    for (int64_t b = 0; b < p.blocks; ++b) {
#pragma GCC unroll 8
      for (int lane = 0; lane < kLanes; ++lane) {
        __m256 w0, w1;
        load_weights(w + lane * kPanel, w0, w1);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
          const __m256 x = _mm256_broadcast_ss(row[r] + lane);
          add_product(low[r], x, w0);
          add_product(high[r], x, w1);
        }
      }
      w += kLanes * kPanel;
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) row[r] += p.block_stride;
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    if (sum) {
      low[r] = _mm256_add_ps(low[r], _mm256_loadu_ps(sum[r]));
      high[r] = _mm256_add_ps(high[r], _mm256_loadu_ps(sum[r] + p.out_stride));
    }
    if (p.relu) {
      low[r] = _mm256_max_ps(low[r], _mm256_setzero_ps());
      high[r] = _mm256_max_ps(high[r], _mm256_setzero_ps());
    }
    _mm256_storeu_ps(out[r], low[r]);
    _mm256_storeu_ps(out[r] + p.out_stride, high[r]);
  }
}

template <typename W>
using Multiply = void (*)(const Product<W>&, const int64_t*, float* const*, const float* const*);
template <typename W>
constexpr Multiply<W> kMultiply[kRows] = {multiply<1, W>, multiply<2, W>, multiply<3, W>,
                                          multiply<4, W>, multiply<5, W>, multiply<6, W>};

// dw [8 input channels][16 output channels] += the products of `count` runs of `length` pixels.
template <typename Run>
ENS_AVX2 void multiply_transposed(const float* x, const float* dy, const Run* runs, int64_t count,
                                  int64_t length, int64_t x_step, int64_t dy_stride, float* dw) {
  for (int half = 0; half < 2; ++half, x += 4, dw += 4 * kPanel) {
    __m256 low[4], high[4];
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      low[c] = _mm256_loadu_ps(dw + c * kPanel);
      high[c] = _mm256_loadu_ps(dw + c * kPanel + kLanes);
    }
    for (int64_t i = 0; i < count; ++i) {
      const float* a = x + runs[i].x;
      const float* b = dy + runs[i].dy;
#pragma GCC unroll 2
      for (int64_t k = 0; k < length; ++k, a += x_step, b += kLanes) {
        const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + dy_stride);
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) {
          const __m256 v = _mm256_broadcast_ss(a + c);
          add_product(low[c], v, b0);
          add_product(high[c], v, b1);
        }
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      _mm256_storeu_ps(dw + c * kPanel, low[c]);
      _mm256_storeu_ps(dw + c * kPanel + kLanes, high[c]);
    }
  }
}

#endif

// One block of channels of `count` images, `image` numbers apart, as [pixel][at_once images].
void by_pixel(const float* from, int64_t count, int64_t image, int64_t pixels, int64_t at_once,
              float* to) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t p = 0; p < pixels; ++p) {
      std::memcpy(to + (p * at_once + i) * kLanes, from + i * image + p * kLanes,
                  kLanes * sizeof(float));
    }
  }
}

}  // namespace

bool BlockConv::available() {
#if defined(__x86_64__) && !defined(ENS_BASELINE)
  static const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return isa() == Isa::kAvx2 && fma;
#else
  return false;
#endif
}

bool BlockConv::applies(Pass pass, const Shape& w, const ConvSpec& spec) {
  const int64_t written = pass == Pass::kGradInput ? w[1] : w[0];
  return available() && spec.groups == 1 && w[0] % kLanes == 0 && w[1] % kLanes == 0 &&
         written % kPanel == 0;
}

BlockConv::BlockConv(Pass pass, const Shape& x, const Shape& w, const Shape& y,
                     const ConvSpec& spec, Dtype packed)
    : pass_(pass),
      spec_(spec),
      packed_(packed),
      batch_(x[0]),
      taps_(w[2] * w[3]),
      kernel_{w[2], w[3]} {
  const bool back = pass == Pass::kGradInput;
  const Shape& from = back ? y : x;
  const Shape& to = back ? x : y;
  inputs_ = from[1];
  outputs_ = to[1];
  for (int axis : {0, 1}) {
    in_[axis] = from[2 + axis];
    out_[axis] = to[2 + axis];
  }
  framed_ = out_[0] * out_[1] >= kSmallMap || batch_ < kManyImages;
  if (framed_) {
    at_once_ = 1;
    plan_framed();
  } else {
    const int64_t bytes = inputs_ * in_[0] * in_[1] * static_cast<int64_t>(sizeof(float));
    at_once_ = std::min(batch_, std::max<int64_t>(kCopyBytes / bytes, kRows));
    const int64_t goes = (batch_ + at_once_ - 1) / at_once_;
    at_once_ = (batch_ + goes - 1) / goes;
    plan_by_pixel();
  }
}

// Forward, output pixel q meets input pixel q * stride - padding + k * dilation; the gradient goes
// the other way, from the output's pixels back to the input's.
int64_t BlockConv::source(int64_t out, int64_t k) const {
  if (pass_ != Pass::kGradInput) return out * spec_.stride - spec_.padding + k * spec_.dilation;
  const int64_t distance = out + spec_.padding - k * spec_.dilation;
  return distance % spec_.stride ? kNone : distance / spec_.stride;
}

// Pixels of the output whose coordinates have the same remainders (of the stride, going back) meet
// the same kernel positions.
void BlockConv::plan_framed() {
  const int64_t period = pass_ == Pass::kGradInput ? spec_.stride : 1;
  const int64_t step = pass_ == Pass::kGradInput ? 1 : spec_.stride;
  for (int axis : {0, 1}) {
    for (int64_t q = 0; q < out_[axis]; ++q) {
      for (int64_t k = 0; k < kernel_[axis]; ++k) {
        const int64_t p = source(q, k);
        if (p == kNone) continue;
        frame_[axis][0] = std::max(frame_[axis][0], -p);
        frame_[axis][1] = std::max(frame_[axis][1], p - in_[axis] + 1);
      }
    }
  }
  const int64_t width = frame_[1][0] + in_[1] + frame_[1][1];
  positions_ = (frame_[0][0] + in_[0] + frame_[0][1]) * width;
  for (int64_t y0 = 0; y0 < std::min(period, out_[0]); ++y0) {
    for (int64_t x0 = 0; x0 < std::min(period, out_[1]); ++x0) {
      Group group;
      for (int64_t ky = 0; ky < kernel_[0]; ++ky) {
        for (int64_t kx = 0; kx < kernel_[1]; ++kx) {
          const int64_t y = source(y0, ky), x = source(x0, kx);
          if (y == kNone || x == kNone) continue;
          group.taps.push_back(
              {((y + frame_[0][0]) * width + x + frame_[1][0]) * kLanes, ky * kernel_[1] + kx});
        }
      }
      for (int64_t y = y0; y < out_[0]; y += period) {
        for (int64_t x = x0; x < out_[1]; x += period) {
          group.rows.push_back({(y / period * step * width + x / period * step) * kLanes,
                                (y * out_[1] + x) * kLanes});
        }
      }
      groups_.push_back(std::move(group));
    }
  }
  if (pass_ != Pass::kGradWeight) return;
  const Group& all = groups_.front();
  run_length_ = out_[1];
  x_step_ = spec_.stride * kLanes;
  runs_.resize(static_cast<size_t>(taps_));
  for (const Tap& tap : all.taps) {
    for (int64_t y = 0; y < out_[0]; ++y) {
      const Row& first = all.rows[static_cast<size_t>(y * out_[1])];
      runs_[static_cast<size_t>(tap.index)].push_back({tap.from + first.from, first.to});
    }
  }
}

void BlockConv::plan_by_pixel() {
  positions_ = in_[0] * in_[1] * at_once_;
  run_length_ = at_once_;
  x_step_ = kLanes;
  runs_.resize(static_cast<size_t>(taps_));
  for (int64_t y = 0; y < out_[0]; ++y) {
    for (int64_t x = 0; x < out_[1]; ++x) {
      const int64_t q = y * out_[1] + x;
      Group group;
      for (int64_t ky = 0; ky < kernel_[0]; ++ky) {
        for (int64_t kx = 0; kx < kernel_[1]; ++kx) {
          const int64_t from_y = source(y, ky), from_x = source(x, kx);
          if (from_y < 0 || from_y >= in_[0] || from_x < 0 || from_x >= in_[1]) continue;
          const int64_t from = (from_y * in_[1] + from_x) * at_once_ * kLanes;
          const int64_t tap = ky * kernel_[1] + kx;
          group.taps.push_back({from, tap});
          runs_[static_cast<size_t>(tap)].push_back({from, q * at_once_ * kLanes});
        }
      }
      for (int64_t i = 0; i < at_once_; ++i) {
        group.rows.push_back({i * kLanes, (i * outputs_ * out_[0] * out_[1] + q * kLanes)});
      }
      groups_.push_back(std::move(group));
    }
  }
}

// The weight as [panel of outputs][kernel position][input][16 outputs].
void BlockConv::pack(const float* w, void* packed) const {
  const bool back = pass_ == Pass::kGradInput, half = packed_ == Dtype::kBF16;
  const int64_t per_output = back ? taps_ : inputs_ * taps_;
  const int64_t per_input = back ? outputs_ * taps_ : taps_;
  parallel_for(outputs_ / kPanel, 1, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      for (int64_t i = 0; i < inputs_; ++i) {
        const float* from = w + panel * kPanel * per_output + i * per_input;
        int64_t to = (panel * taps_ * inputs_ + i) * kPanel;
        for (int64_t t = 0; t < taps_; ++t, to += inputs_ * kPanel) {
          for (int64_t o = 0; o < kPanel; ++o) {
            const float number = from[o * per_output + t];
            if (half) {
              static_cast<BFloat16*>(packed)[to + o % kLanes * 2 + o / kLanes] = BFloat16(number);
            } else {
              static_cast<float*>(packed)[to + o] = number;
            }
          }
        }
      }
    }
  });
}

void BlockConv::unpack(const float* packed, float* w) const {
  parallel_for(outputs_ / kPanel, 1, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      for (int64_t i = 0; i < inputs_; ++i) {
        float* to = w + (panel * kPanel * inputs_ + i) * taps_;
        const float* from = packed + (panel * taps_ * inputs_ + i) * kPanel;
        for (int64_t t = 0; t < taps_; ++t, from += inputs_ * kPanel) {
          for (int64_t o = 0; o < kPanel; ++o) to[o * inputs_ * taps_ + t] = from[o];
        }
      }
    }
  });
}

// Blocks [block_begin, block_end) of the images [first, first + count) in the form of the plan, in
// `copy` or, where they have it already, in place; block 0 would be at the result.
const float* BlockConv::gather(const float* in, int64_t first, int64_t count, int64_t block_begin,
                               int64_t block_end, float* copy) const {
  const int64_t blocks = inputs_ / kLanes, pixels = in_[0] * in_[1];
  in += first * blocks * pixels * kLanes;
  if (framed_ && positions_ == pixels) return in;
  if (framed_) {
    const int64_t width = frame_[1][0] + in_[1] + frame_[1][1];
    for (int64_t b = block_begin; b < block_end; ++b) {
      const float* from = in + b * pixels * kLanes;
      float* to = copy + b * positions_ * kLanes;
      const auto zeros = [&](int64_t n) { to = std::fill_n(to, n * kLanes, 0.0f); };
      zeros(frame_[0][0] * width + frame_[1][0]);
      for (int64_t y = 0; y < in_[0]; ++y) {
        to = std::copy_n(from, in_[1] * kLanes, to);
        from += in_[1] * kLanes;
        if (y + 1 < in_[0]) zeros(frame_[1][1] + frame_[1][0]);
      }
      zeros(frame_[1][1] + frame_[0][1] * width);
    }
    return copy;
  }
  for (int64_t b = block_begin; b < block_end; ++b) {
    by_pixel(in + b * pixels * kLanes, count, inputs_ * pixels, pixels, at_once_,
             copy + b * positions_ * kLanes);
  }
  return copy;
}

template <typename W>
void BlockConv::run_groups(const float* from, int64_t count, int64_t panel_begin, int64_t panel_end,
                           const W* packed, const float* bias, const float* sum, bool relu,
                           float* out) const {
#if defined(__x86_64__)
  const int64_t pixels = out_[0] * out_[1];
  std::vector<int64_t> tap_from, tap_weight;
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    for (const Group& group : groups_) {
      tap_from.clear();
      tap_weight.clear();
      for (const Tap& tap : group.taps) {
        tap_from.push_back(tap.from);
        tap_weight.push_back(tap.index * inputs_ * kPanel);
      }
      const Product<W> product{from,
                               inputs_ / kLanes,
                               positions_ * kLanes,
                               tap_from.data(),
                               tap_weight.data(),
                               static_cast<int64_t>(tap_from.size()),
                               packed + panel * taps_ * inputs_ * kPanel,
                               bias ? bias + panel * kPanel : nullptr,
                               relu,
                               pixels * kLanes};
      // As evenly as possible: five rows keep the processor as busy as six, one does not.
      const int64_t rows = framed_ ? static_cast<int64_t>(group.rows.size()) : count;
      const int64_t parts = (rows + kRows - 1) / kRows;
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t begin = rows * part / parts, end = rows * (part + 1) / parts;
        int64_t row[kRows];
        float* to[kRows];
        const float* add[kRows];
        for (int64_t r = begin; r < end; ++r) {
          const Row& place = group.rows[static_cast<size_t>(r)];
          const int64_t at = place.to + panel * 2 * pixels * kLanes;
          row[r - begin] = place.from;
          to[r - begin] = out + at;
          add[r - begin] = sum + (sum ? at : 0);
        }
        kMultiply<W>[end - begin - 1](product, row, to, sum ? add : nullptr);
      }
    }
  }
#else
  (void)from, (void)count, (void)panel_begin, (void)panel_end, (void)packed, (void)bias, (void)sum,
      (void)relu, (void)out;
#endif
}

void BlockConv::run(const float* in, const void* packed, const float* bias, const float* sum,
                    bool relu, float* out) const {
  if (packed_ == Dtype::kBF16) {
    run_as(in, static_cast<const BFloat16*>(packed), bias, sum, relu, out);
  } else {
    run_as(in, static_cast<const float*>(packed), bias, sum, relu, out);
  }
}

template <typename W>
void BlockConv::run_as(const float* in, const W* packed, const float* bias, const float* sum,
                       bool relu, float* out) const {
  const int64_t panels = outputs_ / kPanel, blocks = inputs_ / kLanes;
  const int64_t image = outputs_ * out_[0] * out_[1];
  const size_t copy_bytes = static_cast<size_t>(blocks * positions_ * kLanes) * sizeof(float);
  const int64_t goes = (batch_ + at_once_ - 1) / at_once_;
  if (goes >= compute_threads()) {
    parallel_for(goes, 1, [&](int64_t begin, int64_t end) {
      const Buffer copy(copy_bytes);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i * at_once_, count = std::min(at_once_, batch_ - first);
        const float* from = gather(in, first, count, 0, blocks, copy.as<float>());
        run_groups(from, count, 0, panels, packed, bias, sum ? sum + first * image : nullptr, relu,
                   out + first * image);
      }
    });
    return;
  }
  const Buffer copy(copy_bytes);
  for (int64_t first = 0; first < batch_; first += at_once_) {
    const int64_t count = std::min(at_once_, batch_ - first);
    const float* from = gather(in, first, count, 0, blocks, copy.as<float>());
    parallel_for(panels, 1, [&](int64_t begin, int64_t end) {
      run_groups(from, count, begin, end, packed, bias, sum ? sum + first * image : nullptr, relu,
                 out + first * image);
    });
  }
}

void BlockConv::grad_weight(const float* x, const float* dy, float* dw) const {
#if defined(__x86_64__)
  const int64_t blocks = inputs_ / kLanes, panels = outputs_ / kPanel;
  const int64_t pixels = out_[0] * out_[1];
  const size_t copy_bytes = static_cast<size_t>(blocks * positions_ * kLanes) * sizeof(float);
  const int64_t dy_positions = framed_ ? pixels : pixels * at_once_;
  const Buffer x_copy(copy_bytes), sums(static_cast<size_t>(weights()) * sizeof(float));
  const Buffer dy_copy(framed_ ? 1 : static_cast<size_t>(outputs_ * dy_positions) * sizeof(float));
  std::memset(sums.data(), 0, static_cast<size_t>(weights()) * sizeof(float));
  // One block of input channels: each thread has some of its own, so that nobody writes to the same
  // sums.
  const auto add_block = [&](int64_t first, int64_t count, int64_t b, const float* gradient) {
    const float* from = gather(x, first, count, b, b + 1, x_copy.as<float>());
    for (int64_t panel = 0; panel < panels; ++panel) {
      for (int64_t t = 0; t < taps_; ++t) {
        const std::vector<Run>& runs = runs_[static_cast<size_t>(t)];
        multiply_transposed(
            from + b * positions_ * kLanes, gradient + panel * 2 * dy_positions * kLanes,
            runs.data(), static_cast<int64_t>(runs.size()), framed_ ? run_length_ : count, x_step_,
            dy_positions * kLanes,
            sums.as<float>() + ((panel * taps_ + t) * inputs_ + b * kLanes) * kPanel);
      }
    }
  };
  if (framed_) {
    parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        for (int64_t i = 0; i < batch_; ++i) add_block(i, 1, b, dy + i * outputs_ * pixels);
      }
    });
  } else {
    for (int64_t first = 0; first < batch_; first += at_once_) {
      const int64_t count = std::min(at_once_, batch_ - first);
      float* gradient = dy_copy.as<float>();
      parallel_for(outputs_ / kLanes, 1, [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
          by_pixel(dy + (first * outputs_ + b * kLanes) * pixels, count, outputs_ * pixels, pixels,
                   at_once_, gradient + b * dy_positions * kLanes);
        }
      });
      parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) add_block(first, count, b, gradient);
      });
    }
  }
  unpack(sums.as<float>(), dw);
#else
  (void)x, (void)dy, (void)dw;
#endif
}

}  // namespace ens::cpu
