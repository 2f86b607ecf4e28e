// SPDX-License-Identifier: Apache-2.0
// What can be said of a run with a channel of limited power, whoever attacks (docs/channel.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "nn/core/tensor.h"
#include "nn/data/dataset.h"
#include "proto/config.h"
#include "proto/results.pb.h"

namespace ens {

// Everything that is in RUN/certificate.json. `config`: the run's. Usage Error for a run without a
// channel.
results::Certificate certify(const std::filesystem::path& run, const RunConfig& config);

// The Gaussian rate-distortion code of images whose pixels' colours are turned to their principal
// axes and whose planes are transformed by the DCT: about the best code for a Gaussian source with
// the same spectrum (Cover and Thomas, "Elements of Information Theory", chapter 10).
class PictureCode {
 public:
  // From the first `most` images, which are square.
  PictureCode(const Dataset& images, int64_t most);

  // Images [n,C,S,S] as they are after so many bits each: reverse water-filling and the Gaussian
  // test channel, clipped to [0, 1].
  Tensor decoded(const Tensor& images, double bits, uint64_t seed) const;
  // dB: no code of so many bits for such a source has a higher mean PSNR, by the coefficients of
  // any sub-space: max over m of (m/d) G_m 2^(-2 bits / m), G_m the geometric mean of the m largest
  // variances.
  double psnr_bound(double bits) const;
  // At least the mean squared error, by the entropy of such a source.
  double entropy_mse(double bits) const;

 private:
  std::vector<double> transformed(const float* image) const;
  double water_level(double bits) const;

  int64_t channels_, size_;
  std::vector<double> axes_, cosines_;   // [C,C], one a row; [S,S], orthonormal
  std::vector<double> mean_, variance_;  // of the coefficients, [C,S,S]
};

}  // namespace ens
