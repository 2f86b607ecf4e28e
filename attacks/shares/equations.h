// SPDX-License-Identifier: Apache-2.0
// What more than T shares say of the K inputs: equations over the field without noise, whose
// unknowns are small.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "offload/core/coding.h"

namespace ens {

// c > T shares have T noises in common, which elimination removes; c - T linear equations modulo p
// in the K inputs are left. K of them determine the inputs. Fewer have a lattice of solutions,
// shifted by any one of them. The inputs are int8, so theirs is among the small ones: the smallest
// is found by Babai's nearest plane on a basis reduced by LLL (Lenstra, Lenstra, Lovasz 1982). With
// the small public points of LagrangeCode the equations have small coefficients, and so several
// small solutions: the smallest is a mixture of the inputs.
class ShareEquations {
 public:
  // shares: distinct indices in the code, more than code.noises() of them.
  ShareEquations(const LagrangeCode& code, std::span<const int> shares);

  // residues: of each of the shares, all of one length n. The K inputs, n integers each, one after
  // another, from K equations or more; from fewer a small solution.
  bool determined() const { return sides_.size() == inputs_; }
  std::vector<int32_t> solve(std::span<const std::span<const uint32_t>> residues) const;

 private:
  Field field_;
  size_t inputs_;
  std::vector<std::vector<uint32_t>> sides_;  // equation i: of the shares, its right-hand side
  std::vector<std::vector<double>> basis_;    // K reduced vectors
  std::vector<std::vector<double>> planes_;   // their Gram-Schmidt vectors, over squared length
};

}  // namespace ens
