// SPDX-License-Identifier: Apache-2.0
// Images of a data set under a new key, and what attacks rebuild from them, in this process and
// without a file: for the studio. The key stays inside.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "attacks/core/evaluator.h"
#include "nn/data/dataset.h"
#include "proto/config.h"

namespace ens {

// Calls may come from several threads; one works at a time.
class DisguiseBench {
 public:
  // `config` is completed and disguised; data.public_images and data.train_limit say what attackers
  // get. The key comes from the operating system's random source. Error if the data set is not
  // there or the settings do not fit its images.
  explicit DisguiseBench(const RunConfig& config);
  ~DisguiseBench();

  const Dataset& images() const;  // the test images
  Shape disguised_shape() const;  // of one
  bool ciphertext() const;        // bytes, 0 to 255
  double key_bytes() const;
  double bytes_of_row() const;  // as it is stored

  // images: float32 [B, C, H, W] in [0, 1] -> [B, disguised_shape()], in the units of pixels 0 to
  // 255.
  Tensor disguise(const Tensor& images);
  // Why an attack makes no sense here; empty if it does.
  std::string not_applicable_reason(const std::string& attack) const;

  // Whether it takes seconds and not minutes here: it trains no network, and knows no more pairs
  // than an attacker could.
  bool is_quick(const std::string& attack) const;

  struct Rebuilt {
    AttackScore score;
    std::vector<Tensor> candidates;  // of each: [B, C, H, W] in [0, 1], of the images shown
    std::vector<double> ssim, psnr;  // of those, their means
    bool reads_plain = false;        // the same attack reads such images where nothing is disguised
    int64_t gallery = 0, public_images = 0, rows = 0;
  };
  // Attacks `shown` [B, C, H, W] in [0, 1] (disguised anew) together with test images, so that at
  // least 64 are scored. `first`: which of the test images they are; -1: none of them. check() is
  // called at least once a second; what it throws ends the attack.
  Rebuilt attack(const std::string& name, const Tensor& shown, int64_t first,
                 const std::function<void()>& check);

  // The key file, for `ensembler disguise apply`; never written over.
  void write_key(const std::filesystem::path& file) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
