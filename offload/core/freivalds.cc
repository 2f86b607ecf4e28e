// SPDX-License-Identifier: Apache-2.0
#include "offload/core/freivalds.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/secret_rng.h"
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

struct Layer {
  Layer(Tensor weight_, const ConvSpec& spec_) : weight(std::move(weight_)) {
    const bool conv = weight.rank() == 4;
    if (conv) spec = spec_;
    outputs = weight.dim(0);
    channels = weight.dim(1) * spec.groups;
    kernel_h = conv ? weight.dim(2) : 1;
    kernel_w = conv ? weight.dim(3) : 1;
  }
  // The terms of one output's sum.
  int64_t row() const { return weight.numel() / outputs; }

  Tensor weight;
  ConvSpec spec;
  int64_t outputs, channels, kernel_h, kernel_w;
};

// W_s [C, kh, kw] = sum_o s_o W_o, for s [O].
template <typename Sum, typename Scalar>
std::vector<Sum> combine_channels(const Layer& layer, std::span<const Scalar> s) {
  const int64_t row = layer.row(), out_per_group = layer.outputs / layer.spec.groups;
  const int8_t* w = layer.weight.data<int8_t>();
  std::vector<Sum> sum(static_cast<size_t>(row * layer.spec.groups));
  for (int64_t o = 0; o < layer.outputs; ++o) {
    Sum* group = sum.data() + o / out_per_group * row;
    for (int64_t i = 0; i < row; ++i)
      group[i] += static_cast<Sum>(s[static_cast<size_t>(o)]) * static_cast<Sum>(w[o * row + i]);
  }
  return sum;
}

// Both sides of the check for every position of one output map [H', W']: left = sum_o s_o y_o,
// right = f(W_s, x). product(scalar, element) is a term.
template <typename Sum, typename Scalar, typename Product>
void both_sides(const Layer& layer, std::span<const Scalar> s, std::span<const Scalar> weight,
                const uint32_t* x, const Shape& x_shape, const uint32_t* y, const Shape& y_shape,
                std::vector<Sum>& left, std::vector<Sum>& right, Product product) {
  const bool conv = x_shape.rank() == 3;
  const int64_t height = conv ? x_shape[1] : 1, width = conv ? x_shape[2] : 1;
  const int64_t out_h = conv ? y_shape[1] : 1, out_w = conv ? y_shape[2] : 1, map = out_h * out_w;
  const ConvSpec& spec = layer.spec;
  left.assign(static_cast<size_t>(map), 0);
  right.assign(static_cast<size_t>(map), 0);
  for (int64_t o = 0; o < layer.outputs; ++o) {
    const uint32_t* plane = y + o * map;
    for (int64_t i = 0; i < map; ++i)
      left[static_cast<size_t>(i)] += product(s[static_cast<size_t>(o)], plane[i]);
  }
  for (int64_t c = 0; c < layer.channels; ++c) {
    const uint32_t* plane = x + c * height * width;
    for (int64_t i = 0; i < layer.kernel_h; ++i) {
      for (int64_t j = 0; j < layer.kernel_w; ++j) {
        const Scalar w = weight[static_cast<size_t>((c * layer.kernel_h + i) * layer.kernel_w + j)];
        const int64_t shift = j * spec.dilation - spec.padding;
        if (width - 1 - shift < 0) continue;
        const int64_t first = shift < 0 ? (-shift + spec.stride - 1) / spec.stride : 0;
        const int64_t last = std::min(out_w, (width - 1 - shift) / spec.stride + 1);
        for (int64_t oy = 0; oy < out_h; ++oy) {
          const int64_t iy = oy * spec.stride + i * spec.dilation - spec.padding;
          if (iy < 0 || iy >= height) continue;
          const uint32_t* line = plane + iy * width + shift;
          Sum* sum = right.data() + oy * out_w;
          for (int64_t ox = first; ox < last; ++ox) sum[ox] += product(w, line[ox * spec.stride]);
        }
      }
    }
  }
}

class FieldCheck : public ProductCheck {
 public:
  FieldCheck(const Field& field, Tensor weight, const ConvSpec& spec, int repetitions)
      : field_(field), layer_(std::move(weight), spec), repetitions_(repetitions) {}

  void redraw(const Seed& seed) override {
    std::vector<uint32_t> drawn(static_cast<size_t>(layer_.outputs * repetitions_));
    use_nonce(seed);
    expand_seed(seed, field_, drawn);
    secrets_.clear();
    for (int r = 0; r < repetitions_; ++r) {
      Secret secret;
      for (int64_t o = 0; o < layer_.outputs; ++o)
        secret.s.push_back(drawn[static_cast<size_t>(r * layer_.outputs + o)]);
      // |s| < 2^31, |w| <= 2^7: 2^24 output channels before 64 bits overflow.
      for (const int64_t v : combine_channels<int64_t, uint64_t>(layer_, secret.s))
        secret.weight.push_back(field_.of(v));
      secrets_.push_back(std::move(secret));
    }
  }

  bool check(std::span<const uint32_t> x, const Shape& x_shape, std::span<const uint32_t> y,
             const Shape& y_shape, int64_t count) const override {
    if (secrets_.empty()) fail("no secret was drawn", "freivalds");
    std::vector<uint64_t> left, right;
    bool good = true;
    with_fold(field_.prime(), [&](auto fold) {
      for (const Secret& secret : secrets_) {
        for (int64_t n = 0; n < count; ++n) {
          both_sides<uint64_t, uint64_t>(
              layer_, secret.s, secret.weight, x.data() + n * x_shape.numel(), x_shape,
              y.data() + n * y_shape.numel(), y_shape, left, right,
              [fold](uint64_t a, uint32_t element) { return fold(a * element); });
          for (size_t i = 0; i < left.size(); ++i)
            good &= field_.reduce(left[i]) == field_.reduce(right[i]);
        }
      }
    });
    return good;
  }

 private:
  struct Secret {
    std::vector<uint64_t> s;       // [O]
    std::vector<uint64_t> weight;  // W_s [C, kh, kw]
  };
  const Field field_;
  const Layer layer_;
  const int repetitions_;
  std::vector<Secret> secrets_;
};

class RealCheck : public ProductCheck {
 public:
  RealCheck(Tensor weight, const ConvSpec& spec) : layer_(std::move(weight), spec) {}

  void redraw(const Seed& seed) override {
    use_nonce(seed);
    SecretRng rng(seed);
    s_.clear();
    for (int64_t o = 0; o < layer_.outputs; ++o) s_.push_back(2 * rng.uniform() - 1);
    weight_ = combine_channels<double, double>(layer_, s_);
    double largest = 0;  // of the groups
    const int64_t row = layer_.row();
    for (size_t from = 0; from < weight_.size(); from += static_cast<size_t>(row)) {
      double square = 0;
      for (int64_t i = 0; i < row; ++i)
        square += weight_[from + static_cast<size_t>(i)] * weight_[from + static_cast<size_t>(i)];
      largest = std::max(largest, square);
    }
    norm_ = std::sqrt(largest);
  }

  bool check(std::span<const uint32_t> x, const Shape& x_shape, std::span<const uint32_t> y,
             const Shape& y_shape, int64_t count) const override {
    if (s_.empty()) fail("no secret was drawn", "freivalds");
    std::vector<double> left, right;
    bool good = true;
    for (int64_t n = 0; n < count; ++n) {
      const auto one =
          x.subspan(static_cast<size_t>(n * x_shape.numel()), static_cast<size_t>(x_shape.numel()));
      double most = 0;
      for (const uint32_t v : one) most = std::max(most, std::abs(value(v)));
      const double tolerance =
          32 * 0x1p-24 * std::sqrt(static_cast<double>(layer_.row())) * norm_ * most;
      both_sides<double, double>(layer_, s_, weight_, one.data(), x_shape,
                                 y.data() + n * y_shape.numel(), y_shape, left, right,
                                 [](double a, uint32_t element) { return a * value(element); });
      for (size_t i = 0; i < left.size(); ++i)
        good &= std::abs(left[i] - right[i]) <= tolerance;  // false for NaN
    }
    return good;
  }

 private:
  static double value(uint32_t bits) { return std::bit_cast<float>(bits); }

  const Layer layer_;
  std::vector<double> s_;       // [O]
  std::vector<double> weight_;  // W_s [C, kh, kw]
  double norm_ = 0;
};

}  // namespace

std::unique_ptr<ProductCheck> field_check(const Field& field, Tensor weight, const ConvSpec& spec,
                                          int repetitions) {
  return std::make_unique<FieldCheck>(field, std::move(weight), spec, repetitions);
}

std::unique_ptr<ProductCheck> real_check(Tensor weight, const ConvSpec& spec) {
  return std::make_unique<RealCheck>(std::move(weight), spec);
}

}  // namespace ens
