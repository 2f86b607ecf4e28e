// SPDX-License-Identifier: Apache-2.0
#include "lab/certificate.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "attacks/core/metrics.h"
#include "base/error.h"
#include "base/statistics.h"
#include "ensemble/model/edge_bundle.h"
#include "ensemble/protect/channel.h"
#include "ensemble/protect/feature_train.h"
#include "ensemble/train/nets.h"
#include "lab/datasets.h"
#include "nn/autograd/ops.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostImages = 10000;    // of the test split, and as candidates
constexpr int64_t kMostTraining = 50000;  // that models are fitted on
constexpr int64_t kRequests = 1000;       // that are identified
constexpr int64_t kPictureTraining = 5000, kPictures = 1000;
constexpr int kDraws = 4;                // of the noise, for each image
constexpr int64_t kMostElements = 1024;  // whose full covariance is fitted
constexpr int kProjections = 16;
constexpr int64_t kJacobians = 64;  // images

double log2_of(double nats) { return nats / std::numbers::ln2; }

// ---- what z is distributed like

// A mixture of Gaussians with the means of the components and one full covariance, that of the mean
// features within components and of the noise. `means`: [n,k].
class NoisyMixture {
 public:
  NoisyMixture(const Tensor& means, const std::vector<int32_t>& component, int count)
      : k_(means.dim(1)), centres_(static_cast<size_t>(count)), weights_(centres_.size()) {
    const int64_t n = means.dim(0);
    for (auto& centre : centres_) centre.assign(static_cast<size_t>(k_), 0);
    for (int64_t i = 0; i < n; ++i) {
      const auto c = static_cast<size_t>(component[static_cast<size_t>(i)]);
      weights_[c] += 1;
      for (int64_t j = 0; j < k_; ++j) centres_[c][static_cast<size_t>(j)] += at(means, i, j);
    }
    for (size_t c = 0; c < centres_.size(); ++c) {
      for (double& value : centres_[c]) value /= std::max(weights_[c], 1.0);
    }
    Tensor rest = Tensor::empty(means.shape());
    for (int64_t i = 0; i < n; ++i) {
      const auto& centre = centres_[static_cast<size_t>(component[static_cast<size_t>(i)])];
      for (int64_t j = 0; j < k_; ++j) {
        rest.data<float>()[i * k_ + j] =
            static_cast<float>(at(means, i, j) - centre[static_cast<size_t>(j)]);
      }
    }
    const NoGrad no_grad;
    const Tensor scatter = matmul(Var(rest), Var(rest), true, false).value().plain();
    std::vector<double> covariance(static_cast<size_t>(k_ * k_));
    for (size_t i = 0; i < covariance.size(); ++i) {
      covariance[i] = scatter.data<float>()[i] / static_cast<double>(n);
    }
    for (int64_t i = 0; i < k_; ++i) covariance[static_cast<size_t>(i * (k_ + 1))] += 1;
    factorise(std::move(covariance));
    for (size_t c = 0; c < centres_.size(); ++c) {
      weights_[c] = std::log(weights_[c] / static_cast<double>(n));
      solve(centres_[c]);
    }
  }

  // ln q(z) + (k / 2) ln 2 pi.
  double log_density(std::vector<double> z) const {
    solve(z);
    double most = -INFINITY, sum = 0;
    std::vector<double> logs;
    for (size_t c = 0; c < centres_.size(); ++c) {
      if (!std::isfinite(weights_[c])) continue;
      double square = 0;
      for (size_t j = 0; j < z.size(); ++j) square += std::pow(z[j] - centres_[c][j], 2);
      logs.push_back(weights_[c] - square / 2);
      most = std::max(most, logs.back());
    }
    for (const double value : logs) sum += std::exp(value - most);
    return most + std::log(sum) - log_determinant_ / 2;
  }

 private:
  static double at(const Tensor& t, int64_t i, int64_t j) {
    return t.data<float>()[i * t.dim(1) + j];
  }
  void factorise(std::vector<double> a) {  // Cholesky
    for (int64_t i = 0; i < k_; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        double sum = a[static_cast<size_t>(i * k_ + j)];
        for (int64_t m = 0; m < j; ++m) {
          sum -= a[static_cast<size_t>(i * k_ + m)] * a[static_cast<size_t>(j * k_ + m)];
        }
        a[static_cast<size_t>(i * k_ + j)] =
            i == j ? std::sqrt(sum) : sum / a[static_cast<size_t>(j * (k_ + 1))];
      }
      log_determinant_ += 2 * std::log(a[static_cast<size_t>(i * (k_ + 1))]);
    }
    factor_ = std::move(a);
  }
  void solve(std::vector<double>& z) const {  // L x = z, in place
    for (int64_t i = 0; i < k_; ++i) {
      double sum = z[static_cast<size_t>(i)];
      const double* row = &factor_[static_cast<size_t>(i * k_)];
      for (int64_t j = 0; j < i; ++j) sum -= row[j] * z[static_cast<size_t>(j)];
      z[static_cast<size_t>(i)] = sum / row[i];
    }
  }

  const int64_t k_;
  std::vector<std::vector<double>> centres_;  // solved by the factor
  std::vector<double> weights_;               // logarithms
  std::vector<double> factor_;
  double log_determinant_ = 0;
};

// log2 p(z|x) / q(z) for draws of z, one list for each image of means [n,k].
std::vector<std::vector<double>> surprises(const NoisyMixture& q, const Tensor& means, int draws) {
  Rng rng(1, "certificate");
  const int64_t k = means.dim(1);
  std::vector<std::vector<double>> all(static_cast<size_t>(means.dim(0)));
  std::vector<double> z(static_cast<size_t>(k));
  for (int64_t i = 0; i < means.dim(0); ++i) {
    for (int d = 0; d < draws; ++d) {
      double square = 0;
      for (int64_t j = 0; j < k; ++j) {
        const double noise = rng.normal();
        square += noise * noise;
        z[static_cast<size_t>(j)] = means.data<float>()[i * k + j] + noise;
      }
      all[static_cast<size_t>(i)].push_back(log2_of(-square / 2 - q.log_density(z)));
    }
  }
  return all;
}

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// ---- one run

class Certifier {
 public:
  Certifier(const fs::path& run, const RunConfig& config)
      : bundle_(read_edge_bundle(run / "edge.h5")),
        train_(shared_dataset(config, DataPart::kTrain)),
        test_(shared_dataset(config, DataPart::kTest)) {
    const int64_t elements = smashed_shape(bundle_.info.model, bundle_.info.split).numel();
    const auto channel = find_channel(bundle_.protection, elements);
    if (!channel) {
      usage_fail("nothing limits what a request of this run tells", run.string(),
                 "certify runs that were trained with protection.kind=channel");
    }
    channel_ = *channel;
  }

  results::Certificate run() {
    state_limit();
    const Tensor test = means(*test_, kMostImages);
    if (channel_.elements <= kMostElements) estimate(means(*train_, kMostTraining), test);
    identify(test);
    state_fano();
    picture_scale();
    fisher_information();
    return std::move(out_);
  }

 private:
  // [n,k]: what is sent, in the mean.
  Tensor means(const Dataset& data, int64_t most) {
    const NoGrad no_grad;
    const int64_t n = std::min(most, data.count());
    const Tensor features =
        plan_features(*bundle_.head, bundle_.info.model, data, n, Device{}, Dtype::kF32);
    return flatten(channel_map(bundle_.protection)(Var(features), nullptr)).value().plain();
  }

  void state_limit() {
    auto& c = *out_.mutable_channel();
    c.set_bits(channel_.bits);
    c.set_power(channel_.power);
    c.set_elements(static_cast<int32_t>(channel_.elements));
    c.set_keyed(channel_.keyed);
    for (const double m : {1, 4, 16, 64}) {
      auto& sends = *out_.add_sends();
      sends.set_sends(m);
      sends.set_bits(channel_.bits_of_sends(m));
    }
  }

  // Of the two models the one that fits training images that neither has seen.
  void estimate(const Tensor& train, const Tensor& test) {
    const int64_t fitted = train.dim(0) * 4 / 5, rest = train.dim(0) - fitted;
    std::vector<int32_t> none(static_cast<size_t>(train.dim(0)), 0);
    const auto mixture = [&](int64_t images, bool classes) {
      return NoisyMixture(train.rows(0, images), classes ? train_->labels : none,
                          classes ? bundle_.info.model.classes : 1);
    };
    double bits[2];
    for (const bool classes : {false, true}) {
      std::vector<double> each;
      for (const auto& draws : surprises(mixture(fitted, classes),
                                         train.rows(fitted, std::min<int64_t>(rest, 2000)), 1)) {
        each.push_back(mean_of(draws));
      }
      bits[classes] = mean_of(each);
    }
    const bool classes = bits[1] < bits[0];
    std::vector<double> images, all;
    for (const auto& draws : surprises(mixture(train.dim(0), classes), test, kDraws)) {
      images.push_back(mean_of(draws));
      all.insert(all.end(), draws.begin(), draws.end());
    }
    const Interval interval = bootstrap(images, 1);
    out_.set_model(classes ? "class mixture" : "Gaussian");
    out_.mutable_estimate()->set_mean(interval.mean);
    out_.mutable_estimate()->set_low(interval.low);
    out_.mutable_estimate()->set_high(interval.high);
    out_.set_largest_draws(percentile(all, 0.999));
  }

  // White box: all candidates' mean features are known, and all are as likely. With one power for
  // all, the most likely is the one with the largest product with what was sent.
  void identify(const Tensor& candidates) {
    const NoGrad no_grad;
    const int64_t count = candidates.dim(0), requests = std::min(kRequests, count);
    Tensor z = candidates.rows(0, requests).clone();
    make_protection(bundle_.protection)->apply(z);
    const Tensor products = matmul(Var(z), Var(candidates), false, true).value().plain();
    int64_t right = 0;
    double largest = 0;
    for (int64_t i = 0; i < requests; ++i) {
      const float* row = products.data<float>() + i * count;
      right += std::max_element(row, row + count) - row == i;
    }
    for (int64_t i = 0; i < count; ++i) {
      double square = 0;
      for (const float mu : candidates.rows(i, 1).span<float>()) square += double{mu} * mu;
      largest = std::max(largest, square);
    }
    const double share = static_cast<double>(right) / static_cast<double>(requests);
    const double bits = std::max(share * std::log2(static_cast<double>(count)) - 1, 0.0);
    out_.set_largest_power(largest / (static_cast<double>(channel_.elements) * channel_.power));
    out_.set_candidates(static_cast<int32_t>(count));
    out_.set_requests(static_cast<int32_t>(requests));
    out_.set_identified(share);
    out_.set_implied_bits(bits);
    out_.set_sound(out_.largest_power() <= 1 + 1e-4 && bits <= channel_.bits &&
                   (!out_.has_estimate() || bits <= out_.estimate().high()));
  }

  void state_fano() {
    for (const double candidates : {1e4, 1e6, 1e9}) {
      auto& fano = *out_.add_fano();
      fano.set_candidates(candidates);
      fano.set_most(std::min((channel_.bits + 1) / std::log2(candidates), 1.0));
    }
  }

  void picture_scale() {
    const PictureCode code(*train_, kPictureTraining);
    const Tensor truth = images_of(*test_, 0, std::min(kPictures, test_->count()));
    std::vector<double> bits{channel_.bits};
    if (out_.has_estimate()) bits.insert(bits.begin(), std::max(out_.estimate().mean(), 0.0));
    for (const double b : bits) {
      const ImageScores scores = score_images(truth, code.decoded(truth, b, 1));
      auto& picture = *out_.add_pictures();
      picture.set_bits(b);
      picture.set_ssim(mean_of(scores.ssim));
      picture.set_psnr(mean_of(scores.psnr));
      picture.set_psnr_bound(code.psnr_bound(b));
    }
    out_.set_entropy_mse(code.entropy_mse(channel_.bits));
  }

  // E |J^T v|^2 over v ~ N(0, I) is |J|^2; the noise has variance 1.
  void fisher_information() {
    const auto channel = channel_map(bundle_.protection);
    const Tensor images = images_of(*test_, 0, std::min(kJacobians, test_->count()));
    Rng rng(1, "projections");
    double total = 0;
    for (int p = 0; p < kProjections; ++p) {
      const Var x(images.clone(), true);
      const Var mean = channel(bundle_.head->forward(x), nullptr);
      Tensor v = Tensor::empty(mean.shape());
      rng.fill_normal(v.span<float>(), 0, 1);
      sum(mul(mean, Var(v))).backward();
      for (const float slope : x.grad().to_vector()) total += double{slope} * slope;
    }
    const double fisher = total / (kProjections * static_cast<double>(images.numel()));
    out_.set_fisher(fisher);
    out_.set_unbiased_mse(1 / fisher);
  }

  const EdgeBundle bundle_;
  const std::shared_ptr<const Dataset> train_, test_;
  Channel channel_;
  results::Certificate out_;
};

// The eigenvectors of a symmetric matrix [n,n], one a row, by Jacobi's rotations.
std::vector<double> eigenvectors(std::vector<double> a, int64_t n) {
  std::vector<double> v(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) v[static_cast<size_t>(i * (n + 1))] = 1;
  const auto in = [n](std::vector<double>& m, int64_t i, int64_t j) -> double& {
    return m[static_cast<size_t>(i * n + j)];
  };
  for (int sweep = 0; sweep < 30; ++sweep) {
    for (int64_t p = 0; p < n; ++p) {
      for (int64_t q = p + 1; q < n; ++q) {
        const double angle = std::atan2(2 * in(a, p, q), in(a, q, q) - in(a, p, p)) / 2;
        const double c = std::cos(angle), s = std::sin(angle);
        const auto turn = [&](double& x, double& y) {
          const double old = x;
          x = c * old - s * y;
          y = s * old + c * y;
        };
        for (int64_t i = 0; i < n; ++i) turn(in(a, i, p), in(a, i, q));
        for (int64_t i = 0; i < n; ++i) turn(in(a, p, i), in(a, q, i));
        for (int64_t i = 0; i < n; ++i) turn(in(v, p, i), in(v, q, i));
      }
    }
  }
  return v;
}

}  // namespace

// ---- pictures

PictureCode::PictureCode(const Dataset& images, int64_t most)
    : channels_(images.channels), size_(images.height) {
  const int64_t n = std::min(most, images.count()), pixels = size_ * size_;
  const Tensor data = images_of(images, 0, n);
  cosines_.resize(static_cast<size_t>(pixels));
  for (int64_t f = 0; f < size_; ++f) {
    for (int64_t x = 0; x < size_; ++x) {
      const auto s = static_cast<double>(size_);
      cosines_[static_cast<size_t>(f * size_ + x)] =
          std::sqrt((f == 0 ? 1 : 2) / s) *
          std::cos(std::numbers::pi * static_cast<double>(f) * (static_cast<double>(x) + 0.5) / s);
    }
  }
  std::vector<double> sums(static_cast<size_t>(channels_)),
      products(static_cast<size_t>(channels_ * channels_));
  const auto pixel = [&](int64_t i, int64_t c, int64_t p) {
    return double{data.data<float>()[(i * channels_ + c) * pixels + p]};
  };
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t a = 0; a < channels_; ++a) {
        sums[static_cast<size_t>(a)] += pixel(i, a, p);
        for (int64_t b = 0; b < channels_; ++b) {
          products[static_cast<size_t>(a * channels_ + b)] += pixel(i, a, p) * pixel(i, b, p);
        }
      }
    }
  }
  const auto all = static_cast<double>(n * pixels);
  for (int64_t a = 0; a < channels_; ++a) {
    for (int64_t b = 0; b < channels_; ++b) {
      double& covariance = products[static_cast<size_t>(a * channels_ + b)];
      covariance = covariance / all -
                   sums[static_cast<size_t>(a)] / all * sums[static_cast<size_t>(b)] / all;
    }
  }
  axes_ = eigenvectors(products, channels_);
  mean_.assign(static_cast<size_t>(channels_ * pixels), 0);
  variance_ = mean_;
  for (int64_t i = 0; i < n; ++i) {
    const auto y = transformed(data.data<float>() + i * channels_ * pixels);
    for (size_t j = 0; j < y.size(); ++j) mean_[j] += y[j], variance_[j] += y[j] * y[j];
  }
  for (size_t j = 0; j < mean_.size(); ++j) {
    mean_[j] /= static_cast<double>(n);
    variance_[j] = std::max(variance_[j] / static_cast<double>(n) - mean_[j] * mean_[j], 1e-12);
  }
}

// Colours to their axes, then both directions of each plane.
std::vector<double> PictureCode::transformed(const float* image) const {
  const int64_t s = size_, pixels = s * s;
  std::vector<double> out(static_cast<size_t>(channels_ * pixels)),
      plane(static_cast<size_t>(pixels)), half(plane.size());
  for (int64_t c = 0; c < channels_; ++c) {
    for (int64_t p = 0; p < pixels; ++p) {
      double sum = 0;
      for (int64_t k = 0; k < channels_; ++k) {
        sum += axes_[static_cast<size_t>(c * channels_ + k)] * image[k * pixels + p];
      }
      plane[static_cast<size_t>(p)] = sum;
    }
    for (int64_t f = 0; f < s; ++f) {
      for (int64_t y = 0; y < s; ++y) {
        double sum = 0;
        for (int64_t x = 0; x < s; ++x) {
          sum += cosines_[static_cast<size_t>(f * s + x)] * plane[static_cast<size_t>(y * s + x)];
        }
        half[static_cast<size_t>(y * s + f)] = sum;
      }
    }
    for (int64_t g = 0; g < s; ++g) {
      for (int64_t f = 0; f < s; ++f) {
        double sum = 0;
        for (int64_t y = 0; y < s; ++y) {
          sum += cosines_[static_cast<size_t>(g * s + y)] * half[static_cast<size_t>(y * s + f)];
        }
        out[static_cast<size_t>(c * pixels + g * s + f)] = sum;
      }
    }
  }
  return out;
}

double PictureCode::water_level(double bits) const {
  double low = 1e-15, high = *std::ranges::max_element(variance_);
  for (int i = 0; i < 200; ++i) {
    const double level = std::sqrt(low * high);
    double spent = 0;
    for (const double v : variance_) spent += v > level ? std::log2(v / level) / 2 : 0;
    (spent > bits ? low : high) = level;
  }
  return high;
}

Tensor PictureCode::decoded(const Tensor& images, double bits, uint64_t seed) const {
  const int64_t s = size_, pixels = s * s, size = channels_ * pixels;
  const double level = water_level(bits);
  Rng rng(seed, "test channel");
  Tensor out = Tensor::empty(images.shape());
  std::vector<double> half(static_cast<size_t>(pixels)), plane(static_cast<size_t>(pixels));
  for (int64_t i = 0; i < images.dim(0); ++i) {
    auto y = transformed(images.data<float>() + i * size);
    for (size_t j = 0; j < y.size(); ++j) {
      const double kept = std::max(1 - level / variance_[j], 0.0);
      y[j] = mean_[j] + kept * (y[j] - mean_[j]);
      if (kept > 0) y[j] += std::sqrt(kept * level) * rng.normal();
    }
    float* image = out.data<float>() + i * size;
    std::fill_n(image, size, 0.0f);
    for (int64_t c = 0; c < channels_; ++c) {
      for (int64_t row = 0; row < s; ++row) {
        for (int64_t f = 0; f < s; ++f) {
          double sum = 0;
          for (int64_t g = 0; g < s; ++g) {
            sum += cosines_[static_cast<size_t>(g * s + row)] *
                   y[static_cast<size_t>(c * pixels + g * s + f)];
          }
          half[static_cast<size_t>(row * s + f)] = sum;
        }
      }
      for (int64_t row = 0; row < s; ++row) {
        for (int64_t x = 0; x < s; ++x) {
          double sum = 0;
          for (int64_t f = 0; f < s; ++f) {
            sum +=
                cosines_[static_cast<size_t>(f * s + x)] * half[static_cast<size_t>(row * s + f)];
          }
          for (int64_t k = 0; k < channels_; ++k) {
            image[k * pixels + row * s + x] +=
                static_cast<float>(axes_[static_cast<size_t>(c * channels_ + k)] * sum);
          }
        }
      }
    }
    for (int64_t j = 0; j < size; ++j) image[j] = std::clamp(image[j], 0.0f, 1.0f);
  }
  return out;
}

double PictureCode::psnr_bound(double bits) const {
  std::vector<double> sorted = variance_;
  std::ranges::sort(sorted, std::greater<>());
  double logs = 0, most = 0;
  for (size_t m = 1; m <= sorted.size(); ++m) {
    logs += std::log2(sorted[m - 1]);
    const auto count = static_cast<double>(m);
    most = std::max(
        most, count / static_cast<double>(sorted.size()) * std::exp2((logs - 2 * bits) / count));
  }
  return -10 * std::log10(most);
}

double PictureCode::entropy_mse(double bits) const {
  double logs = -2 * bits;
  for (const double v : variance_) logs += std::log2(v);
  return std::exp2(logs / static_cast<double>(variance_.size()));
}

// ----

results::Certificate certify(const fs::path& run, const RunConfig& config) {
  return Certifier(run, config).run();
}

}  // namespace ens
