// SPDX-License-Identifier: Apache-2.0
// One picture through a trained run of split inference, both sides in this process, with what
// passes on the way: for the studio. Which answers the tail reads stays inside.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ensemble/model/bundle.h"
#include "nn/core/tensor.h"

namespace ens {

struct SplitTrace {
  Tensor clean;    // [C, H, W]: what the head makes of the image
  Tensor sent;     // the same after the protection
  Tensor outputs;  // [N, ...]: what each body answers
  std::vector<double> body_ms;
  double edge_ms = 0, tail_ms = 0;
  std::vector<std::pair<std::string, double>> probabilities;  // by class name, the largest first
};

// One thread at a time.
class SplitTracer {
 public:
  // Reads the run's bundles. Error if they are not there, damaged, or not of split inference.
  explicit SplitTracer(const std::filesystem::path& run);
  ~SplitTracer();

  const BundleInfo& info() const;
  const std::vector<std::string>& class_names() const;
  // Whether the protection is noise whose size can be changed afterwards.
  bool has_noise() const;
  // image [C, H, W] float32 in [0, 1]. `noise`: how many times the trained size of the noise, 0 to
  // 100; 1 unless has_noise().
  SplitTrace trace(const Tensor& image, double noise);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
