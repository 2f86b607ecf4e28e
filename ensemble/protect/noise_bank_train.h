// Training of Shredder's noises (Mireshghallah et al., "Shredder: Learning Noise Distributions to
// Protect Inference Privacy", ASPLOS 2020).
//
// The net is frozen; K noises n_1..n_K are its only parameters, drawn from a Laplace distribution
// at first, and trained to be large where the net does not mind:
//
//   loss = CE( net(a + n_k), y ) - reward * 1/K sum_k 1/2 log Var(n_k)
//
// with a the feature and k drawn anew for every image. The paper subtracts a multiple of sum |n|
// that must be lowered by hand before the noise runs away. The logarithm of the size bounds itself,
// and needs no other setting for another feature: up to a constant the second term is 1/2 log SNR,
// the paper's own measure, SNR = E[a^2] / Var(n).
#pragma once

#include "nn/core/rng.h"
#include "nn/modules/module.h"

namespace ens {

class NoiseBankTraining : public Module {
 public:
  // `count` noises for features of shape [C,H,W], with standard deviation `sigma` > 0 at first,
  // drawn from `rng`. `key`: of the stream that says who gets which; not secret. The parameters are
  // the noises divided by `unit`: a gradient step moves the noises unit^2 as far.
  NoiseBankTraining(const Shape& feature, int count, float sigma, float unit, Rng& rng,
                    uint64_t key);
  Var forward(const Var& features) override;  // adds to every image's feature one of the noises
  Var size() const;                           // 1/K sum_k 1/2 log Var(n_k)
  Tensor bank() const;                        // [K,C,H,W] as it is now
  double variance() const;                    // mean over the bank of Var(n_k)

 private:
  Var noises() const;  // [K, C*H*W]
  Shape feature_;
  float unit_;
  uint64_t key_;
  Var scaled_;  // [K, C*H*W]
  Tensor calls_;
};

}  // namespace ens
