// SPDX-License-Identifier: Apache-2.0
#include "offload/core/freivalds.h"

#include <algorithm>

#include "base/error.h"
#include "offload/core/nonces.h"

namespace ens {
namespace {

// Folds a product below 2^62 to less than 2^32 modulo 2^31 - 1, or leaves one below 2^48 alone:
// then 2^16 of them can be added in 64 bits.
template <typename F>
void with_fold(uint32_t prime, F f) {
  if (prime == (1u << 31) - 1) {
    f([](uint64_t v) { return (v & ((uint64_t{1} << 31) - 1)) + (v >> 31); });
  } else if (prime < (1u << 24)) {
    f([](uint64_t v) { return v; });
  } else {
    f([prime](uint64_t v) { return v % prime; });
  }
}

}  // namespace

Freivalds::Freivalds(const Field& field, Tensor weight, const ConvSpec& spec, int repetitions)
    : field_(field), weight_(std::move(weight)), repetitions_(repetitions) {
  const bool conv = weight_.rank() == 4;
  if (conv) spec_ = spec;
  outputs_ = weight_.dim(0);
  channels_ = weight_.dim(1) * spec_.groups;
  kernel_h_ = conv ? weight_.dim(2) : 1;
  kernel_w_ = conv ? weight_.dim(3) : 1;
}

void Freivalds::redraw(const Seed& seed) {
  std::vector<uint32_t> drawn(static_cast<size_t>(outputs_ * repetitions_));
  use_nonce(seed);
  expand_seed(seed, field_, drawn);
  const int64_t row = weight_.numel() / outputs_, out_per_group = outputs_ / spec_.groups;
  const int8_t* w = weight_.data<int8_t>();
  secrets_.clear();
  for (int r = 0; r < repetitions_; ++r) {
    Secret secret;
    secret.s.assign(drawn.begin() + r * outputs_, drawn.begin() + (r + 1) * outputs_);
    std::vector<int64_t> sum(static_cast<size_t>(row * spec_.groups));
    for (int64_t o = 0; o < outputs_; ++o) {
      // |s| < 2^31, |w| <= 2^7: 2^24 output channels before 64 bits overflow.
      int64_t* group = sum.data() + o / out_per_group * row;
      for (int64_t i = 0; i < row; ++i)
        group[i] += int64_t{secret.s[static_cast<size_t>(o)]} * w[o * row + i];
    }
    for (const int64_t v : sum) secret.weight.push_back(field_.of(v));
    secrets_.push_back(std::move(secret));
  }
}

bool Freivalds::check(std::span<const uint32_t> x, const Shape& x_shape,
                      std::span<const uint32_t> y, const Shape& y_shape, int64_t count) const {
  if (secrets_.empty()) fail("no secret was drawn", "freivalds");
  const bool conv = x_shape.rank() == 3;
  const int64_t height = conv ? x_shape[1] : 1, width = conv ? x_shape[2] : 1;
  const int64_t out_h = conv ? y_shape[1] : 1, out_w = conv ? y_shape[2] : 1, map = out_h * out_w;
  std::vector<uint64_t> left(static_cast<size_t>(map)), right(static_cast<size_t>(map));
  bool good = true;
  with_fold(field_.prime(), [&](auto fold) {
    for (const Secret& secret : secrets_) {
      for (int64_t n = 0; n < count; ++n) {
        std::ranges::fill(left, 0);
        std::ranges::fill(right, 0);
        for (int64_t o = 0; o < outputs_; ++o) {
          const uint32_t* plane = y.data() + (n * outputs_ + o) * map;
          const uint64_t s = secret.s[static_cast<size_t>(o)];
          for (int64_t i = 0; i < map; ++i) left[static_cast<size_t>(i)] += fold(s * plane[i]);
        }
        for (int64_t c = 0; c < channels_; ++c) {
          const uint32_t* plane = x.data() + (n * channels_ + c) * height * width;
          for (int64_t i = 0; i < kernel_h_; ++i) {
            for (int64_t j = 0; j < kernel_w_; ++j) {
              const uint64_t w =
                  secret.weight[static_cast<size_t>((c * kernel_h_ + i) * kernel_w_ + j)];
              for (int64_t oy = 0; oy < out_h; ++oy) {
                const int64_t iy = oy * spec_.stride + i * spec_.dilation - spec_.padding;
                if (iy < 0 || iy >= height) continue;
                const int64_t shift = j * spec_.dilation - spec_.padding;
                const int64_t first = shift < 0 ? (-shift + spec_.stride - 1) / spec_.stride : 0;
                const int64_t last = std::min(out_w, (width - 1 - shift) / spec_.stride + 1);
                const uint32_t* line = plane + iy * width + shift;
                uint64_t* sum = right.data() + oy * out_w;
                if (width - 1 - shift < 0) continue;
                for (int64_t ox = first; ox < last; ++ox)
                  sum[ox] += fold(w * line[ox * spec_.stride]);
              }
            }
          }
        }
        for (int64_t i = 0; i < map; ++i) {
          good &= field_.reduce(left[static_cast<size_t>(i)]) ==
                  field_.reduce(right[static_cast<size_t>(i)]);
        }
      }
    }
  });
  return good;
}

}  // namespace ens
