// SPDX-License-Identifier: Apache-2.0
// BlindedLayers: an int8 network of which workers compute the linear layers, on shares of their
// inputs; the device computes the rest (docs/offload.md).
#pragma once

#include <memory>

#include "edge/client.h"
#include "nn/plan/int8.h"
#include "proto/config.h"
#include "proto/status.h"

namespace ens {

// One thread at a time, but for cancel().
class BlindedLayers {
 public:
  // net: lives as long as this. Error for bad keys; usage Error for too few workers, and for layers
  // that do not fit the field or a worker.
  BlindedLayers(const EdgeConfig& config, const Int8Net& net);
  ~BlindedLayers();

  // Whether enough workers reply. Also loads the layers that they lack.
  Status check();
  // images [B, ...] -> the network's outputs [B, ...], all or nothing. Adds to out.times, and to
  // out.warnings which workers failed or lied. Asks check() before the first images.
  Status run(const Tensor& images, Tensor& outputs, Classified& out);
  void cancel();  // from any thread, for good

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
