// SPDX-License-Identifier: Apache-2.0
// Probes: features whose right outputs are known, sent among the others at random times to detect a
// cloud that runs something else. To the cloud a probe is a request like any other.
#pragma once

#include <filesystem>
#include <string>

#include "ensemble/model/bundle.h"
#include "nn/core/tensor.h"
#include "proto/status.h"

namespace ens {

class Probes {
 public:
  // features [K, C, H, W] float32 as they are sent, outputs [N, K, ...] float32 of a cloud that is
  // trusted.
  Probes(std::string fingerprint, Tensor features, Tensor outputs);
  // Error if damaged, or of another bundle than `info`.
  Probes(const std::filesystem::path& file, const BundleInfo& info);
  // Mode 0600: the features are of somebody's images.
  void write(const std::filesystem::path& file) const;

  // `count` consecutive ones, from a random start: features [count, C, H, W] and their right
  // outputs.
  struct Sample {
    Tensor features, outputs;
  };
  Sample draw(int64_t count) const;

  // How far a net's outputs may be from the right ones, relative to their norm. Precisions and
  // processors differ (bfloat16, features in int8) by less, other weights by far more.
  static constexpr double kTolerance = 0.1;
  static Status check(const Tensor& outputs, const Tensor& right);

 private:
  std::string fingerprint_;
  Tensor features_, outputs_;
};

}  // namespace ens
