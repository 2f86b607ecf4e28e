// SPDX-License-Identifier: Apache-2.0
#include "attacks/core/metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/statistics.h"
#include "nn/core/backend.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

// Weights along one axis; the window is their outer product. They sum to 1.
struct Window {
  std::vector<double> weights;
  double covariance_factor;

  int size() const { return static_cast<int>(weights.size()); }
};

Window gaussian_window() {
  constexpr int kRadius = 5;
  constexpr double kSigma = 1.5;
  Window window{{}, 1.0};
  for (int i = -kRadius; i <= kRadius; ++i) {
    window.weights.push_back(std::exp(-0.5 * i * i / (kSigma * kSigma)));
  }
  const double sum = std::accumulate(window.weights.begin(), window.weights.end(), 0.0);
  for (double& w : window.weights) w /= sum;
  return window;
}

Window uniform_window() {
  constexpr int kSize = 7;
  constexpr double kCount = kSize * kSize;
  return {std::vector<double>(kSize, 1.0 / kSize), kCount / (kCount - 1)};
}

// SSIM of planes of one size; holds the scratch memory.
class PlaneSsim {
 public:
  PlaneSsim(Window window, int height, int width)
      : window_(std::move(window)),
        height_(height),
        width_(width),
        out_width_(width - window_.size() + 1),
        columns_(kMaps * static_cast<size_t>(width)),
        sums_(kMaps * static_cast<size_t>(out_width_)) {}

  // Mean over all windows inside the plane.
  double operator()(const double* x, const double* y, double range) {
    const double c1 = (0.01 * range) * (0.01 * range);
    const double c2 = (0.03 * range) * (0.03 * range);
    const int rows = height_ - window_.size() + 1;
    double total = 0;
    for (int row = 0; row < rows; ++row) {
      weigh_columns(x + static_cast<ptrdiff_t>(row) * width_,
                    y + static_cast<ptrdiff_t>(row) * width_);
      weigh_rows();
      for (int i = 0; i < out_width_; ++i) {
        const double ux = at(0)[i], uy = at(1)[i];
        const double f = window_.covariance_factor;
        const double vx = f * (at(2)[i] - ux * ux);
        const double vy = f * (at(3)[i] - uy * uy);
        const double vxy = f * (at(4)[i] - ux * uy);
        total += (2 * ux * uy + c1) * (2 * vxy + c2) / ((ux * ux + uy * uy + c1) * (vx + vy + c2));
      }
    }
    return total / (static_cast<double>(rows) * out_width_);
  }

 private:
  static constexpr size_t kMaps = 5;  // weighted means of x, y, x*x, y*y, x*y

  double* at(size_t map) { return sums_.data() + map * static_cast<size_t>(out_width_); }

  void weigh_columns(const double* x, const double* y) {
    std::fill(columns_.begin(), columns_.end(), 0.0);
    const size_t n = static_cast<size_t>(width_);
    double* __restrict mx = columns_.data();
    double* __restrict my = mx + n;
    double* __restrict mxx = my + n;
    double* __restrict myy = mxx + n;
    double* __restrict mxy = myy + n;
    for (double w : window_.weights) {
      for (size_t i = 0; i < n; ++i) {
        const double wx = w * x[i], wy = w * y[i];
        mx[i] += wx;
        my[i] += wy;
        mxx[i] += wx * x[i];
        myy[i] += wy * y[i];
        mxy[i] += wx * y[i];
      }
      x += width_;
      y += width_;
    }
  }

  void weigh_rows() {
    std::fill(sums_.begin(), sums_.end(), 0.0);
    for (size_t map = 0; map < kMaps; ++map) {
      const double* column = columns_.data() + map * static_cast<size_t>(width_);
      double* __restrict out = at(map);
      for (int k = 0; k < window_.size(); ++k) {
        const double w = window_.weights[static_cast<size_t>(k)];
        for (int i = 0; i < out_width_; ++i) out[i] += w * column[i + k];
      }
    }
  }

  Window window_;
  int height_, width_, out_width_;
  std::vector<double> columns_, sums_;
};

// A plain float32 copy (or the tensor itself) on the CPU.
Tensor images_on_cpu(const Tensor& images, const char* what) {
  if (!images.defined() || images.rank() != 4 || images.dtype() != Dtype::kF32) {
    fail(images.defined()
             ? std::string(name(images.dtype())) + " " + images.shape().str() + " are not images"
             : std::string("no images"),
         std::string("metrics, ") + what, "give float32 [B,C,H,W]");
  }
  Tensor plain = images.plain().to(Device{});
  if (!(images.device() == Device{})) backend(images.device()).synchronize();
  return plain;
}

}  // namespace

ImageScores score_images(const Tensor& truth, const Tensor& reconstruction, MetricMode mode) {
  const Tensor x = images_on_cpu(truth, "true images");
  const Tensor y = images_on_cpu(reconstruction, "reconstructions");
  if (!(x.shape() == y.shape())) {
    fail("true images " + x.shape().str() + " and reconstructions " + y.shape().str() +
             " differ in shape",
         "metrics");
  }
  const bool he19 = mode == MetricMode::kHe19;
  Window window = he19 ? uniform_window() : gaussian_window();
  const int64_t images = x.dim(0), channels = x.dim(1), height = x.dim(2), width = x.dim(3);
  if (channels < 1 || height < window.size() || width < window.size() || height > 1 << 20 ||
      width > 1 << 20) {
    fail("images " + x.shape().str() + " do not fit the SSIM window", "metrics",
         "height and width must be at least " + std::to_string(window.size()));
  }

  ImageScores scores;
  PlaneSsim ssim(std::move(window), static_cast<int>(height), static_cast<int>(width));
  const size_t plane = static_cast<size_t>(height * width);
  const size_t count = static_cast<size_t>(channels) * plane;
  std::vector<double> a(count), b(count);
  for (int64_t image = 0; image < images; ++image) {
    const float* px = x.data<float>() + static_cast<size_t>(image) * count;
    const float* py = y.data<float>() + static_cast<size_t>(image) * count;
    double squares = 0, low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < count; ++i) {
      a[i] = px[i];
      b[i] = py[i];
      // Written so that NaN fails too.
      if (!(a[i] >= -1e-4 && a[i] <= 1 + 1e-4)) {
        fail("a true image has pixels outside [0, 1]", "metrics", "undo the normalisation first");
      }
      if (!std::isfinite(b[i])) {
        fail("reconstruction " + std::to_string(image) + " has pixels that are not finite",
             "metrics", "the attack diverged: lower its learning rate");
      }
      if (he19) {
        a[i] = std::clamp(a[i], 0.0, 1.0);
        b[i] = std::clamp(b[i], 0.0, 1.0);
      }
      squares += (a[i] - b[i]) * (a[i] - b[i]);
      low = std::min(low, b[i]);
      high = std::max(high, b[i]);
    }
    const double mse = squares / static_cast<double>(count);
    scores.mse.push_back(mse);
    scores.psnr.push_back(std::min(kMaxPsnr, -10 * std::log10(mse)));  // mse 0: the cap

    const double range = he19 ? high - low : 1.0;
    double sum = 0;
    if (range > 0) {
      for (size_t start = 0; start < count; start += plane) {
        sum += ssim(a.data() + start, b.data() + start, range);
      }
    }
    scores.ssim.push_back(sum / static_cast<double>(channels));
  }
  return scores;
}

Interval bootstrap(std::span<const double> values, uint64_t seed, int resamples) {
  if (values.empty() || resamples < 1) fail("no values to average", "metrics");
  const size_t n = values.size();
  Interval interval;
  interval.mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(n);
  Rng rng(seed, "bootstrap");
  std::vector<double> means(static_cast<size_t>(resamples));
  for (double& mean : means) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += values[rng.below(n)];
    mean = sum / static_cast<double>(n);
  }
  interval.low = percentile(means, 0.025);
  interval.high = percentile(means, 0.975);
  return interval;
}

Interval area_under_curve(std::span<const double> positives, std::span<const double> negatives) {
  if (positives.empty() || negatives.empty()) fail("a curve needs positives and negatives", "auc");
  std::vector<double> in(positives.begin(), positives.end()),
      out(negatives.begin(), negatives.end());
  std::ranges::sort(in);
  std::ranges::sort(out);
  if (!std::isfinite(in.front() + in.back() + out.front() + out.back())) {
    fail("a score is not finite", "auc");
  }
  // Of every score of `of` the share of `other` that is below it: mean, and its variance.
  const auto below = [](const std::vector<double>& of, const std::vector<double>& other) {
    std::vector<double> shares;
    for (const double v : of) {
      const auto [low, high] = std::ranges::equal_range(other, v);
      shares.push_back(static_cast<double>((low - other.begin()) + (high - other.begin())) /
                       (2 * static_cast<double>(other.size())));
    }
    const double n = static_cast<double>(shares.size());
    const double mean = std::accumulate(shares.begin(), shares.end(), 0.0) / n;
    double squares = 0;
    for (const double s : shares) squares += (s - mean) * (s - mean);
    return std::pair(mean, squares / std::max(1.0, n - 1) / n);
  };
  const auto [mean, by_positives] = below(in, out);
  const double margin = 1.96 * std::sqrt(by_positives + below(out, in).second);
  return {mean, std::max(0.0, mean - margin), std::min(1.0, mean + margin)};
}

Interval bootstrap_seeds(std::span<const std::vector<double>> by_seed, uint64_t seed,
                         int resamples) {
  if (by_seed.size() == 1) return bootstrap(by_seed[0], seed, resamples);
  if (by_seed.empty() || by_seed[0].empty() || resamples < 1) fail("no values", "metrics");
  const size_t seeds = by_seed.size(), n = by_seed[0].size();
  for (const std::vector<double>& values : by_seed) {
    if (values.size() != n) fail("seeds with different numbers of images", "metrics");
  }
  Interval interval;
  std::vector<double> means;
  for (const std::vector<double>& values : by_seed) {
    means.push_back(std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(n));
  }
  interval.mean = percentile(means, 0.5);
  Rng rng(seed, "bootstrap over seeds");
  std::vector<double> medians(static_cast<size_t>(resamples));
  std::vector<size_t> images(n);
  for (double& median : medians) {
    for (size_t& image : images) image = rng.below(n);
    for (double& mean : means) {
      const std::vector<double>& values = by_seed[rng.below(seeds)];
      double sum = 0;
      for (const size_t image : images) sum += values[image];
      mean = sum / static_cast<double>(n);
    }
    median = percentile(means, 0.5);
  }
  interval.low = percentile(medians, 0.025);
  interval.high = percentile(medians, 0.975);
  return interval;
}

PairedTest paired_test(std::span<const double> a, std::span<const double> b, uint64_t seed) {
  if (a.empty() || a.size() != b.size()) {
    fail(std::to_string(a.size()) + " and " + std::to_string(b.size()) + " values are no pairs",
         "metrics");
  }
  std::vector<double> differences;
  double sum = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    differences.push_back(b[i] - a[i]);
    sum += differences.back();
    size += std::abs(differences.back());
  }
  const double least = std::abs(sum) - 1e-12 * size;  // sums of one set may differ by rounding
  // signs: one bit a difference, 64 of them in turn.
  const auto as_far = [&](auto&& signs) {
    double other = 0;
    uint64_t bits = 0;
    for (size_t i = 0; i < differences.size(); ++i) {
      bits = i % 64 == 0 ? signs() : bits >> 1;
      other += bits & 1 ? differences[i] : -differences[i];
    }
    return std::abs(other) >= least;
  };
  constexpr size_t kMostExact = 20;
  constexpr int64_t kDraws = 100000;
  int64_t count = 0;
  PairedTest result;
  result.difference = bootstrap(differences, seed);
  if (differences.size() <= kMostExact) {
    const uint64_t all = uint64_t{1} << differences.size();
    for (uint64_t signs = 0; signs < all; ++signs) count += as_far([&] { return signs; });
    result.p_value = static_cast<double>(count) / static_cast<double>(all);
  } else {
    Rng rng(seed, "random signs");
    for (int64_t i = 0; i < kDraws; ++i) count += as_far([&] { return rng.next(); });
    result.p_value = static_cast<double>(count + 1) / static_cast<double>(kDraws + 1);
  }
  return result;
}

std::vector<Polarity> polarities(int64_t channels) {
  if (channels != 3) return {Polarity::kAsIs, Polarity::kNegative};
  return {Polarity::kAsIs, Polarity::kLuminanceNegative, Polarity::kNegative,
          Polarity::kHueNegative};
}

const char* name(Polarity polarity) {
  switch (polarity) {
    case Polarity::kAsIs:
      return "as is";
    case Polarity::kLuminanceNegative:
      return "luminance negative";
    case Polarity::kNegative:
      return "negative";
    case Polarity::kHueNegative:
      return "hue negative";
  }
  return "?";
}

Tensor with_polarity(const Tensor& images, Polarity polarity, bool clip) {
  if (polarity == Polarity::kAsIs) return images;
  const Tensor x = images_on_cpu(images, "images to invert");
  Tensor out = Tensor::empty(x.shape());
  const auto from = x.span<float>();
  const auto to = out.span<float>();
  if (polarity == Polarity::kNegative) {
    std::ranges::transform(from, to.begin(), [](float v) { return 1 - v; });
    return out;
  }
  if (x.dim(1) != 3) fail("hues need three channels, not " + x.shape().str(), "with_polarity");
  const size_t plane = static_cast<size_t>(x.dim(2) * x.dim(3));
  for (size_t start = 0; start < from.size(); start += 3 * plane) {
    for (size_t i = start; i < start + plane; ++i) {
      const float r = from[i], g = from[i + plane], b = from[i + 2 * plane];
      const float y2 = 2 * (0.299f * r + 0.587f * g + 0.114f * b);
      for (size_t at : {i, i + plane, i + 2 * plane}) {
        // The sums are grouped as they always were: results stay the same to the bit.
        float value = polarity == Polarity::kHueNegative ? y2 - from[at] : from[at] + 1 - y2;
        if (clip && polarity == Polarity::kLuminanceNegative) value = from[at] + (1 - y2);
        to[at] = clip ? std::clamp(value, 0.0f, 1.0f) : value;
      }
    }
  }
  return out;
}

Score score(const Tensor& truth, const Tensor& reconstruction, uint64_t seed, MetricMode mode) {
  Score result;
  result.images = score_images(truth, reconstruction, mode);
  result.ssim = bootstrap(result.images.ssim, seed);
  result.psnr = bootstrap(result.images.psnr, seed);
  result.mse = bootstrap(result.images.mse, seed);
  return result;
}

PolarityScores score_polarities(const Tensor& truth, const Tensor& reconstruction, uint64_t seed,
                                MetricMode mode) {
  PolarityScores result;
  for (const Polarity polarity : polarities(reconstruction.dim(1))) {
    Score s = score(truth, with_polarity(reconstruction, polarity, /*clip=*/true), seed, mode);
    s.polarity = polarity;
    result.scores.push_back(std::move(s));
    if (result.scores.back().ssim.mean > result.scores[result.best].ssim.mean) {
      result.best = result.scores.size() - 1;
    }
  }
  return result;
}

}  // namespace ens
