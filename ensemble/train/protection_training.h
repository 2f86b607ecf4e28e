// SPDX-License-Identifier: Apache-2.0
// How a kind of protection is trained. proto/protections.inc lists the kinds; each PROTECTION is
// one file in ensemble/train/protections. What it leaves out of the functions below is the training
// of one unprotected net.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ensemble/protect/channel.h"
#include "ensemble/train/stages.h"

namespace ens {

// What the classifier of one net pays for its features in stage 1, beside the cross-entropy.
class FeaturePenalty {
 public:
  FeaturePenalty(double w, std::string m) : weight(w), metric(std::move(m)) {}
  virtual ~FeaturePenalty() = default;
  // [1] float32, differentiable in the features; called once a training step, for images [B,C,S,S]
  // in [0, 1] and the head's output for them, before anything is done to it.
  virtual Var value(const Var& images, const Var& features) = 0;
  // Networks that value() trains, for the checkpoint.
  virtual std::vector<AuxiliaryModel> auxiliary_models() { return {}; }

  const double weight;
  const std::string metric;  // the name of value()'s mean over an epoch in metrics.csv
};

// [1] float32; `done` is from 0 to below 1.
using JointLoss = std::function<Var(EnsembleNet& net, const Batch& batch, double done)>;

class ProtectionTraining {
 public:
  virtual ~ProtectionTraining() = default;

  // Copies into `identity` (stage1_identity) what a net of stage 1 depends on of config.ensemble
  // and config.protection; nothing if the net is trained as without protection.
  virtual void stage1_settings(const RunConfig& /*config*/, RunConfig& /*identity*/) const {}
  // What is done to a net's feature while it is trained, and afterwards; secrets come from `rng`.
  virtual ProtectionSpec feature_protection(const TrainingContext& /*context*/,
                                            Rng& /*rng*/) const {
    return {};
  }
  // The channel that features of so many elements pass, if there is one. Usage Error if it is
  // impossible.
  virtual std::optional<Channel> channel(const RunConfig& /*config*/, int64_t /*elements*/) const {
    return std::nullopt;
  }
  // Of the net `net` ("stage1/net0") on `device`; null: none.
  virtual std::unique_ptr<FeaturePenalty> penalty(const TrainingContext& /*context*/,
                                                  const std::string& /*net*/,
                                                  Device /*device*/) const {
    return nullptr;
  }
  // Where all is trained jointly: what a step minimises, given the share of the steps that are
  // done.
  virtual JointLoss joint_loss(const TrainingContext& context) const;
  // From the nets of stage 1 to what edge and cloud get: by default the first of them as it is.
  // Not asked where all is trained jointly.
  virtual TrainingResult finish(const TrainingContext& context, const Stage1& stage1) const;

  // For estimates of time: how many decoders are trained beside each net of stage 1, and through
  // how many nets stage 2 passes each image (0: there is no stage 2).
  virtual int decoders() const { return 0; }
  virtual int nets_in_stage2(const RunConfig& /*config*/) const { return 0; }
};

#define FEATURE_PROTECTION(...)
#define PROTECTION(kind, ...) std::unique_ptr<ProtectionTraining> kind##_protection();
#include "proto/protections.inc"
#undef PROTECTION
#undef FEATURE_PROTECTION

// Of protection.kind in a completed configuration. Usage Error for a kind that is not known.
std::unique_ptr<ProtectionTraining> make_protection_training(const RunConfig& config);

// For the kinds with noise of ensemble.sigma on the features that they train: what it adds to
// stage1_settings().
void copy_noise_settings(const RunConfig& config, RunConfig& identity);

}  // namespace ens
