// SPDX-License-Identifier: Apache-2.0
// Selector: the client's secret choice of P of the N server nets (arXiv 2401.10859, section 3).
// Never included by cloud/ or attacks/; a test checks that. Values never reach a log or an error.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nn/core/tensor.h"

namespace ens {

class Selector {
 public:
  // `selected`: distinct indices in [0, nets), 1 <= P <= nets; sorted on construction.
  Selector(int nets, std::vector<int> selected);
  // Draws P of N from the operating system's cryptographic source.
  static Selector draw(int nets, int selected);
  // For reproducible studies: derived from the seed. Not secret from anyone who knows it.
  static Selector seeded(int nets, int selected, uint64_t seed);

  int nets() const { return nets_; }
  int count() const { return static_cast<int>(selected_.size()); }
  const std::vector<int>& selected() const { return selected_; }

  // outputs [N, B, ...] of all server nets -> [B, P*C, ...]: the selected ones, each times 1/P,
  // concatenated along the channels. The unselected blocks are zero in the paper and meet no
  // weight.
  Tensor combine(const Tensor& outputs) const;

 private:
  int nets_;
  std::vector<int> selected_;
};

}  // namespace ens
