// Probes: features whose right answers are known, sent between the others at random times to catch
// a cloud that runs something else. To the cloud a probe is a request like any other.
#pragma once

#include <filesystem>
#include <string>

#include "ensemble/model/bundle.h"
#include "nn/core/tensor.h"
#include "proto/status.h"

namespace ens {

class Probes {
 public:
  // features [K, C, H, W] float32 as they are sent, answers [N, K, ...] float32 of a cloud that is
  // trusted.
  Probes(std::string fingerprint, Tensor features, Tensor answers);
  // Error if damaged, or of another bundle than `info`.
  Probes(const std::filesystem::path& file, const BundleInfo& info);
  // The features are of pictures: mode 0600.
  void write(const std::filesystem::path& file) const;

  // `count` of them, from a random place on: features [count, C, H, W] and their right answers.
  struct Sample {
    Tensor features, answers;
  };
  Sample draw(int64_t count) const;

  // How far answers may be from the right ones, relative to the right ones' norm, net by net:
  // precisions and processors differ (bfloat16, features in int8), other weights are far outside.
  static constexpr double kTolerance = 0.1;
  static Status check(const Tensor& answers, const Tensor& right);

 private:
  std::string fingerprint_;
  Tensor features_, answers_;
};

}  // namespace ens
