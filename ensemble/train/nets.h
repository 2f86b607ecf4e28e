// SPDX-License-Identifier: Apache-2.0
// The networks that are trained: single nets and ensembles.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ensemble/model/selector.h"
#include "ensemble/protect/feature_train.h"
#include "nn/data/dataset.h"
#include "nn/models/model.h"
#include "nn/plan/plan.h"

namespace ens {

// Stage 1: one whole classifier with what is done to its feature, M_t(M_s(P(M_h(x)))).
class SingleNet : public Module {
 public:
  // `protection`: null if nothing is done to the feature.
  SingleNet(const ModelSpec& spec, const Split& split, std::shared_ptr<FeatureTraining> protection,
            Rng& rng);
  // Also yields the head's output before the protection, for penalties.
  Var forward(const Var& images, Var& clean_features);
  Var forward(const Var& images) override;

  const std::shared_ptr<Sequential>& head() const { return head_; }
  const std::shared_ptr<Sequential>& body() const { return body_; }
  const std::shared_ptr<Sequential>& tail() const { return tail_; }
  ProtectionSpec protection() const;

 private:
  std::shared_ptr<Sequential> head_, body_, tail_;
  std::shared_ptr<FeatureTraining> protection_;
};

// Several bodies behind one head, M_t(concat_i M_s^i(P(M_h(x))) / P).
class EnsembleNet : public Module {
 public:
  // Stage 2: a fresh head and tail around `frozen` bodies, which are no part of this module's
  // state.
  EnsembleNet(const ModelSpec& spec, const Split& split,
              std::shared_ptr<FeatureTraining> protection,
              std::vector<std::shared_ptr<Sequential>> frozen, Rng& rng);
  // All in one round: a fresh head, tail and `nets` fresh bodies.
  EnsembleNet(const ModelSpec& spec, const Split& split,
              std::shared_ptr<FeatureTraining> protection, int nets, Rng& rng);
  // Also yields the head's output before the protection, for the similarity penalty.
  Var forward(const Var& images, Var& clean_features);
  Var forward(const Var& images) override;
  // The two halves of forward(): the bodies' outputs / P, and the tail's logits for them.
  std::vector<Var> outputs(const Var& images, Var& clean_features);
  Var logits(const std::vector<Var>& outputs) { return tail_->forward(concat(outputs, 1)); }
  // The mean over the nets of the cross-entropy of each without the others, [1].
  Var net_cross_entropy(const std::vector<Var>& outputs, const Tensor& labels);

  const std::shared_ptr<Sequential>& head() const { return head_; }
  const std::vector<std::shared_ptr<Sequential>>& bodies() const { return bodies_; }
  const std::shared_ptr<Sequential>& tail() const { return tail_; }
  const std::shared_ptr<FeatureTraining>& feature_training() const { return protection_; }
  ProtectionSpec protection() const;

 private:
  std::shared_ptr<Sequential> head_, tail_;
  std::vector<std::shared_ptr<Sequential>> bodies_;
  std::shared_ptr<FeatureTraining> protection_;
};

// Fraction of `data` that is classified right, by fused plans, in the given precision, with the
// protection as the edge applies it: what the edge and the cloud will compute together. All
// `bodies` are used: one for a SingleNet, P for an ensemble. `each_batch` may throw to end it.
double plan_accuracy(const Sequential& head, const Protection& protection,
                     const std::vector<std::shared_ptr<Sequential>>& bodies, const Sequential& tail,
                     const ModelSpec& spec, const Split& split, const Dataset& data, Device device,
                     Dtype dtype, const std::function<void()>& each_batch);

// What one of several nets adds to their joint output.
struct NetShare {
  double share = 0;  // of the variance of the logits over the images, 0..1; together 1
  double accuracy =
      0;  // alone: the other nets' outputs are replaced by their means over the images
};

// Of each of the bodies, in their order; as plan_accuracy(), which it takes the arguments of. A
// net's part of the logits is what they lose when its output is replaced by its mean over the
// images; for a linear tail that is its own block's product. Holds all outputs in memory.
std::vector<NetShare> net_shares(const Sequential& head, const Protection& protection,
                                 const std::vector<std::shared_ptr<Sequential>>& bodies,
                                 const Sequential& tail, const ModelSpec& spec, const Split& split,
                                 const Dataset& data, Device device, Dtype dtype,
                                 const std::function<void()>& each_batch);

// The head's output [n,C,H,W] for the first n images by a fused plan: float32, CPU, plain.
Tensor plan_features(const Sequential& head, const ModelSpec& spec, const Dataset& data, int64_t n,
                     Device device, Dtype dtype);

}  // namespace ens
