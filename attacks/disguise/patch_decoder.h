// SPDX-License-Identifier: Apache-2.0
// From codes back to patches: one small network for all positions.
#pragma once

#include "attacks/core/attack.h"
#include "nn/modules/layers.h"

namespace ens {

// An MLP d-512-512-q, trained by the squared error on codes [B,n,d] and the patches [B,n,q] in
// [0, 1] that they are of.
class PatchDecoder {
 public:
  PatchDecoder(const Tensor& codes, const Tensor& patches, const AttackContext& context);
  Tensor decode(const Tensor& codes) const;  // [B,n,d] -> [B,n,q]

 private:
  Tensor normalised(const Tensor& codes) const;  // [B * n, d]

  Tensor mean_, scale_;  // [d], of the known codes
  Device device_;
  std::shared_ptr<Sequential> net_;
};

}  // namespace ens
