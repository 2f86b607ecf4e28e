// SPDX-License-Identifier: Apache-2.0
// How close reconstructions come to the true images: SSIM, PSNR, MSE, with confidence intervals.
//
// The numbers are those of scikit-image's structural_similarity and peak_signal_noise_ratio,
// computed in double precision; tests hold them against stored values of it. Functions are
// thread-safe.
//
// SSIM: Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment: From Error Visibility to
// Structural Similarity", IEEE TIP 2004.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "nn/core/tensor.h"

namespace ens {

enum class MetricMode {
  // SSIM with a Gaussian window of 11x11, sigma 1.5, population covariance, range 1. Pixels are
  // used
  // as they are.
  kDefault,
  // He, Zhang, Lee, "Model Inversion Attacks Against Collaborative Inference", ACSAC 2019: SSIM
  // with a
  // uniform window of 7x7, sample covariance, and as range the maximum minus the minimum of each
  // reconstruction (0 for a reconstruction of one single value). Pixels are clipped to [0, 1]
  // first.
  kHe19,
};

// PSNR is capped: identical images have none. 100 dB is a mean squared error of 1e-10, far below
// the step of 8-bit images.
inline constexpr double kMaxPsnr = 100.0;

// One value per image, in the order of the batch.
struct ImageScores {
  std::vector<double> ssim;  // mean over windows that lie wholly inside the image, then channels;
                             // 1 for identical images, negative values are possible
  std::vector<double> psnr;  // dB, peak 1, at most kMaxPsnr
  std::vector<double> mse;   // mean over all pixels and channels
};

// `truth`, `reconstruction`: float32 [B,C,H,W] on any device, H and W at least 11 (kHe19: 7).
// `truth` must lie in [0, 1]; a reconstruction need not, but must be finite. Error otherwise.
ImageScores score_images(const Tensor& truth, const Tensor& reconstruction,
                         MetricMode mode = MetricMode::kDefault);

struct Interval {
  double mean = 0;
  double low = 0, high = 0;  // 95 %
};

// The mean and its percentile bootstrap interval (Efron, 1979). Same values and seed, same
// interval. Error if `values` is empty.
Interval bootstrap(std::span<const double> values, uint64_t seed, int resamples = 2000);

// Of several seeds, each with one value an image, in the same order of images: `mean` is the median
// over the seeds of their means; the interval is the percentile bootstrap of it over images and
// seeds, both drawn anew. Of one seed: bootstrap(). Error if there are no values or their numbers
// differ.
Interval bootstrap_seeds(std::span<const std::vector<double>> by_seed, uint64_t seed,
                         int resamples = 2000);

// The area under the receiver operating characteristic: how often a positive has the higher score
// than a negative, equal ones counting half. The interval is that of DeLong et al. (Biometrics
// 1988), cut to [0, 1]. Error unless there are both, or for scores that are not finite.
Interval area_under_curve(std::span<const double> positives, std::span<const double> negatives);

// Of two lists of values of the same images in the same order.
struct PairedTest {
  Interval difference;  // mean of b - a, with its bootstrap interval over the images
  // Two-sided, of the mean: the share of the assignments of signs to the differences whose mean is
  // at least as far from zero (Fisher, 1935). Exact up to 20 images, above that from 100,000 random
  // assignments and at least 1 / 100,001.
  double p_value = 1;
};

// Same values and seed, same result. Error if the lists are empty or differ in length.
PairedTest paired_test(std::span<const double> a, std::span<const double> b, uint64_t seed);

// A distribution of features hardly tells images from their negatives: an attack may settle on one
// of them, which a person recognises at once and SSIM does not. Y = .299 R + .587 G + .114 B.
enum class Polarity {
  kAsIs,
  kLuminanceNegative,  // luminance inverted, hues kept: x + 1 - 2 Y
  kNegative,           // 1 - x
  kHueNegative,        // hues inverted, luminance kept: 2 Y - x
};

const char* name(Polarity polarity);  // "as is", "negative", "luminance negative", "hue negative"

// Those that differ: without three channels there are only kAsIs and kNegative.
std::vector<Polarity> polarities(int64_t channels);

// float32 [B,C,H,W] -> the same shape, on the CPU; kAsIs: the tensor itself. Applied twice it gives
// the images again, unless what leaves [0, 1] with inverted luminance or hues is clipped.
Tensor with_polarity(const Tensor& images, Polarity polarity, bool clip = false);

struct Score {
  Polarity polarity = Polarity::kAsIs;
  ImageScores images;
  Interval ssim, psnr, mse;  // means over the images
};

// The reconstruction in each of its polarities(), clipped to [0, 1].
struct PolarityScores {
  std::vector<Score> scores;  // kAsIs first
  size_t best = 0;            // index of the highest mean SSIM
};

Score score(const Tensor& truth, const Tensor& reconstruction, uint64_t seed,
            MetricMode mode = MetricMode::kDefault);
PolarityScores score_polarities(const Tensor& truth, const Tensor& reconstruction, uint64_t seed,
                                MetricMode mode = MetricMode::kDefault);

}  // namespace ens
