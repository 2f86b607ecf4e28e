// SPDX-License-Identifier: Apache-2.0
#include "attacks/core/linear_decoder.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <limits>
#include <vector>

#include "base/error.h"
#include "nn/autograd/ops.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

constexpr int64_t kMostSamples = 60000, kMostUnknowns = 1500, kRows = 4096;
constexpr double kStrengths[] = {1e-5, 1e-4, 1e-3, 1e-2, 1e-1};  // of the mean variance

struct Position {
  int64_t image, y, x;
};

// Means over the pairs, at every position or over all positions of a channel: [C,h,h].
Tensor mean_of(const Tensor& maps, bool everywhere) {
  const int64_t n = maps.dim(0), channels = maps.dim(1), plane = maps.dim(2) * maps.dim(3);
  Tensor mean = Tensor::zeros({channels, maps.dim(2), maps.dim(3)});
  std::vector<double> sums(static_cast<size_t>(channels * plane));
  const float* from = maps.data<float>();
  for (int64_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < sums.size(); ++j) sums[j] += *from++;
  }
  for (int64_t c = 0; c < channels; ++c) {
    const auto begin = sums.begin() + c * plane;
    double total = 0;
    for (auto s = begin; s != begin + plane; ++s) total += *s;
    for (int64_t j = 0; j < plane; ++j) {
      mean.data<float>()[c * plane + j] = static_cast<float>(
          everywhere ? begin[j] / static_cast<double>(n) : total / static_cast<double>(n * plane));
    }
  }
  return mean;
}

// Features minus their mean in the windows around positions, zero outside the map: [P, k*k*C].
Tensor windows(const Tensor& features, const Tensor& mean, int k,
               std::span<const Position> positions) {
  const int64_t channels = features.dim(1), h = features.dim(2), w = features.dim(3);
  Tensor rows = Tensor::zeros({std::ssize(positions), k * k * channels});
  float* to = rows.data<float>();
  for (const Position& p : positions) {
    const float* z = features.data<float>() + p.image * channels * h * w;
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t y = p.y - k / 2; y <= p.y + k / 2; ++y) {
        for (int64_t x = p.x - k / 2; x <= p.x + k / 2; ++x, ++to) {
          if (y < 0 || y >= h || x < 0 || x >= w) continue;
          const int64_t at = (c * h + y) * w + x;
          *to = z[at] - mean.data<float>()[at];
        }
      }
    }
  }
  return rows;
}

// Calls f(pixel of images, number in a row of blocks) for the block of pixels above a position.
template <typename F>
void each_pixel(const Shape& images, int64_t h, const Position& p, F&& f) {
  const int64_t channels = images[1], size = images[2], block = size / h;
  int64_t number = 0;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t y = p.y * block; y < (p.y + 1) * block; ++y) {
      for (int64_t x = p.x * block; x < (p.x + 1) * block; ++x, ++number) {
        f((c * size + y) * size + x, number);
      }
    }
  }
}

// Images minus their mean in the blocks above positions: [P, c * block^2].
Tensor blocks(const Tensor& images, const Tensor& mean, int64_t h,
              std::span<const Position> positions) {
  const int64_t pixels = mean.numel(), block = images.dim(2) / h;
  Tensor rows = Tensor::empty({std::ssize(positions), images.dim(1) * block * block});
  float* to = rows.data<float>();
  for (const Position& p : positions) {
    const float* image = images.data<float>() + p.image * pixels;
    each_pixel(images.shape(), h, p, [&](int64_t pixel, int64_t number) {
      to[number] = image[pixel] - mean.data<float>()[pixel];
    });
    to += rows.dim(1);
  }
  return rows;
}

Tensor product(const Tensor& a, const Tensor& b, bool transpose_a = false) {
  return matmul(Var(a), Var(b), transpose_a).value();
}

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void add_to(Matrix& sum, const Tensor& part) {
  sum += Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(
             part.data<float>(), sum.rows(), sum.cols())
             .cast<double>();
}

// The normal equations of the regression.
struct Moments {
  Matrix squares, mixed;

  Tensor solve(double strength) const {
    const double scale = std::max(squares.trace() / static_cast<double>(squares.rows()), 1e-12);
    Matrix regular = squares;
    regular.diagonal().array() += strength * scale;
    const Matrix solution = regular.ldlt().solve(mixed);
    Tensor weight = Tensor::empty({solution.rows(), solution.cols()});
    std::copy_n(solution.data(), solution.size(), weight.data<float>());
    return weight;
  }
};

// Ridge regression of one window size, over pairs of images and features.
class Regression {
 public:
  Regression(const Tensor& images, const Tensor& features, int window, uint64_t seed)
      : images_(images), features_(features), window_(window), rng_(seed, "linear decoder") {}

  // All positions of pairs [first, last) in rows [top, bottom), or a sample of them.
  std::vector<Position> positions(int64_t first, int64_t last, int64_t top, int64_t bottom) {
    const int64_t h = features_.dim(2), rows = bottom - top, all = (last - first) * rows * h;
    std::vector<Position> list(static_cast<size_t>(std::min(all, kMostSamples)));
    for (int64_t i = 0; i < std::ssize(list); ++i) {
      const int64_t n =
          all > kMostSamples ? static_cast<int64_t>(rng_.below(static_cast<uint64_t>(all))) : i;
      list[static_cast<size_t>(i)] = {first + n / (rows * h), top + n / h % rows, n % h};
    }
    return list;
  }

  // Of the first pairs; what follows subtracts them.
  void take_means(int64_t pairs, bool everywhere) {
    feature_mean = mean_of(features_.rows(0, pairs), everywhere);
    image_mean = mean_of(images_.rows(0, pairs), everywhere);
  }

  Moments moments(const std::vector<Position>& list) const {
    const int64_t h = features_.dim(2), unknowns = window_ * window_ * features_.dim(1);
    Moments sums;
    sums.squares.setZero(unknowns, unknowns);
    sums.mixed.setZero(unknowns, image_mean.numel() / (h * h));
    in_chunks(list, [&](const Tensor& x, const Tensor& y) {
      add_to(sums.squares, product(x, x, true));
      add_to(sums.mixed, product(x, y, true));
    });
    return sums;
  }

  double mean_squared_error(const Tensor& weight, const std::vector<Position>& list) const {
    double squares = 0;
    int64_t count = 0;
    in_chunks(list, [&](const Tensor& x, const Tensor& y) {
      const Tensor guess = product(x, weight);
      for (int64_t i = 0; i < y.numel(); ++i, ++count) {
        const double error = guess.data<float>()[i] - y.data<float>()[i];
        squares += error * error;
      }
    });
    return squares / static_cast<double>(count);
  }

  Tensor feature_mean, image_mean;

 private:
  template <typename F>
  void in_chunks(const std::vector<Position>& list, F&& f) const {
    for (int64_t first = 0; first < std::ssize(list); first += kRows) {
      const std::span<const Position> chunk(
          list.data() + first, static_cast<size_t>(std::min(kRows, std::ssize(list) - first)));
      f(windows(features_, feature_mean, window_, chunk),
        blocks(images_, image_mean, features_.dim(2), chunk));
    }
  }

  const Tensor& images_;
  const Tensor& features_;
  const int window_;
  Rng rng_;
};

}  // namespace

LinearDecoder::LinearDecoder(const Tensor& images, const Tensor& features, int64_t held_out,
                             uint64_t seed) {
  if (features.rank() != 4 || images.rank() != 4 || features.dim(0) != images.dim(0) ||
      images.dim(2) % features.dim(2) != 0) {
    fail("no linear decoder from features " + features.shape().str() + " to images " +
             images.shape().str(),
         "LinearDecoder");
  }
  NoGrad no_grad;
  const int64_t m = images.dim(0), h = features.dim(2);
  const int64_t known = held_out > 0 ? m - held_out : m, half = held_out > 0 ? h : (h + 1) / 2;
  if (known < 1) fail("no pairs are left to learn from", "LinearDecoder");
  if (9 * features.dim(1) > kMostUnknowns || h < 3) window_ = 1;
  Regression regression(images, features, window_, seed);
  const std::vector<Position> learn = regression.positions(0, known, 0, half);
  const std::vector<Position> judge =
      held_out > 0 ? regression.positions(known, m, 0, h) : regression.positions(0, m, half, h);
  bool best_everywhere = false;
  double best_strength = kStrengths[std::size(kStrengths) - 1];
  held_out_error_ = std::numeric_limits<double>::infinity();
  for (bool everywhere : {false, true}) {
    if (judge.empty() || (everywhere && known < 2)) continue;
    regression.take_means(known, everywhere);
    const Moments sums = regression.moments(learn);
    for (double strength : kStrengths) {
      const double error = regression.mean_squared_error(sums.solve(strength), judge);
      if (error >= held_out_error_) continue;
      held_out_error_ = error;
      best_everywhere = everywhere;
      best_strength = strength;
    }
  }
  regression.take_means(m, best_everywhere);
  weight_ = regression.moments(regression.positions(0, m, 0, h)).solve(best_strength);
  feature_mean_ = regression.feature_mean;
  image_mean_ = regression.image_mean;
}

Tensor LinearDecoder::decode(const Tensor& features) const {
  NoGrad no_grad;
  const int64_t n = features.dim(0), h = features.dim(2), size = image_mean_.dim(1);
  const Shape shape{n, image_mean_.dim(0), size, size};
  Tensor images = Tensor::empty(shape);
  for (int64_t i = 0; i < n; ++i) {
    std::vector<Position> all;
    for (int64_t j = 0; j < h * h; ++j) all.push_back({i, j / h, j % h});
    const Tensor guess = product(windows(features, feature_mean_, window_, all), weight_);
    float* image = images.data<float>() + i * image_mean_.numel();
    const float* row = guess.data<float>();
    for (const Position& p : all) {
      each_pixel(shape, h, p, [&](int64_t pixel, int64_t number) {
        image[pixel] = std::clamp(image_mean_.data<float>()[pixel] + row[number], 0.0f, 1.0f);
      });
      row += guess.dim(1);
    }
  }
  return images;
}

}  // namespace ens
