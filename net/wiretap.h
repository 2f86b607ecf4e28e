// SPDX-License-Identifier: Apache-2.0
// Wiretap: what an honest-but-curious cloud sees, recorded by a relay between edge and cloud.
//
// Passes the messages of one edge to the cloud and back unchanged, and keeps the smashed features
// for the attack lab. For plain text on loopback only: CURVE hides what is sent.
#pragma once

#include <memory>
#include <string>

#include "nn/core/tensor.h"

namespace ens {

class Wiretap {
 public:
  // Starts a thread that listens on a free loopback port.
  explicit Wiretap(const std::string& cloud_endpoint);
  ~Wiretap();

  std::string endpoint() const;  // where the edge should connect
  // All features so far, in the order of the requests, [M, C, H, W] float32. A request that is sent
  // again counts once. Error if there were none.
  Tensor features() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
