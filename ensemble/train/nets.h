// The networks that are trained: stage 1's single nets and stage 2's ensemble.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ensemble/model/selector.h"
#include "nn/data/dataset.h"
#include "nn/models/model.h"
#include "nn/plan/plan.h"

namespace ens {

// Stage 1: one whole classifier with its fixed noise, M_t(M_s(M_h(x) + g)).
class SingleNet : public Module {
 public:
  // noise [C,H,W] of the smashed feature's shape.
  SingleNet(const ModelSpec& spec, const Split& split, Tensor noise, Rng& rng);
  Var forward(const Var& images) override;

  const std::shared_ptr<Sequential>& head() const { return head_; }
  const std::shared_ptr<Sequential>& body() const { return body_; }
  const std::shared_ptr<Sequential>& tail() const { return tail_; }
  const Tensor& noise() const { return noise_; }

 private:
  std::shared_ptr<Sequential> head_, body_, tail_;
  Tensor noise_;
};

// Stage 2: a fresh head, tail and noise around P frozen bodies.
class EnsembleNet : public Module {
 public:
  EnsembleNet(const ModelSpec& spec, const Split& split, Tensor noise,
              std::vector<std::shared_ptr<Sequential>> selected_bodies, Rng& rng);
  // Also yields the head's output before the noise, for the similarity penalty.
  Var forward(const Var& images, Var& clean_features);
  Var forward(const Var& images) override;

  const std::shared_ptr<Sequential>& head() const { return head_; }
  const std::shared_ptr<Sequential>& tail() const { return tail_; }
  const Tensor& noise() const { return noise_; }

 private:
  std::shared_ptr<Sequential> head_, tail_;
  std::vector<std::shared_ptr<Sequential>> bodies_;  // frozen; not part of this module's state
  Tensor noise_;
};

// Fraction of `data` that is classified right, by fused plans, in the given precision: what the
// edge and the cloud will compute together. One body for a SingleNet, P for an ensemble.
double plan_accuracy(const Sequential& head, const Tensor& noise,
                     const std::vector<std::shared_ptr<Sequential>>& bodies, const Sequential& tail,
                     const ModelSpec& spec, const Split& split, const Dataset& data, Device device,
                     Dtype dtype);

}  // namespace ens
