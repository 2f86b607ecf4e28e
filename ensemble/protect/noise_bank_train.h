// SPDX-License-Identifier: Apache-2.0
// Training of Shredder's noises (Mireshghallah et al., "Shredder: Learning Noise Distributions to
// Protect Inference Privacy", ASPLOS 2020).
//
// The net is frozen; K noises n_1..n_K are its only parameters, drawn from a Laplace distribution
// at first, and trained to be large where the net does not mind:
//
//   loss = CE( net(a + n_k), y ) - reward * 1/K sum_k 1/2 log Var(n_k)
//
// or net(a (1 + n_k)), elementwise, in the multiplicative form, with a the feature and k drawn anew
// for every image. The paper subtracts a multiple of sum |n| that must be lowered by hand before
// the noise runs away. The logarithm of the size bounds itself, and needs no other setting for
// another feature: up to a constant the second term is 1/2 log SNR, the paper's own measure, SNR =
// E[a^2] / Var(n).
#pragma once

#include "ensemble/protect/protection.h"
#include "nn/core/rng.h"
#include "nn/modules/module.h"

namespace ens {

class NoiseBankTraining : public Module {
 public:
  enum class Form { kAdditive, kMultiplicative };
  // `count` noises for features of shape [C,H,W], with standard deviation `sigma` > 0 at first,
  // drawn from `rng`. `key`: of the stream that says who gets which; not secret. The parameters are
  // the noises divided by `unit`: a gradient step moves the noises unit^2 as far.
  NoiseBankTraining(Form form, const Shape& feature, int count, float sigma, float unit, Rng& rng,
                    uint64_t key);
  // Adds to every image's feature one of the noises, or multiplies it by one plus it.
  Var forward(const Var& features) override;
  Var size() const;  // 1/K sum_k 1/2 log Var(n_k)
  // What the edge is to do: the noises as they are now [K,C,H,W], or one plus them.
  ProtectionStep step() const;
  double variance() const;  // mean over the bank of Var(n_k)

 private:
  Var noises() const;  // [K, C*H*W]
  Form form_;
  Shape feature_;
  float unit_;
  uint64_t key_;
  Var scaled_;  // [K, C*H*W]
  Tensor calls_;
};

}  // namespace ens
