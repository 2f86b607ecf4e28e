// SPDX-License-Identifier: Apache-2.0
// EdgePipeline: everything the client computes itself, without any network.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/key_stream.h"
#include "ensemble/model/edge_bundle.h"
#include "ensemble/protect/channel.h"
#include "ensemble/protect/protection.h"
#include "nn/plan/plan.h"
#include "proto/status.h"

namespace ens {

// INVALID_ARGUMENT unless images are [B, C, H, W] float32 of the model's shape, B >= 1, and every
// value is in [0, 1].
Status check_images(const Tensor& images, const ModelSpec& model);

// (blinded cells ->) head -> protection -> (cloud) -> selector -> tail. One thread at a time per
// pipeline.
class EdgePipeline {
 public:
  // `device_key`: of the noise of a channel (ensemble/protect/channel.h), which then is the same
  // whenever an image is sent through this bundle, and another for every other image and bundle.
  // Without it the noise is drawn anew for each image.
  explicit EdgePipeline(EdgeBundle bundle, int max_batch = 32,
                        const std::optional<Seed>& device_key = std::nullopt);
  ~EdgePipeline();

  const BundleInfo& info() const;
  const std::vector<std::string>& class_names() const;

  const std::optional<Channel>& channel() const;  // that features pass, if there is one

  // The first cells, if workers compute their layers: the caller's task, before smash().
  const Int8Net* blinded() const;

  // images [B, C, H, W] float32 in [0, 1], or what blinded() makes of them -> smashed features as
  // they are sent, float32. Error if the protection refuses to send them.
  Tensor smash(const Tensor& images);
  // outputs [N, B, ...] of all server nets -> logits [B, classes].
  Tensor finish(const Tensor& outputs);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
