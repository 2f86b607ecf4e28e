// SPDX-License-Identifier: Apache-2.0
// Shadow network + decoder, query-free (arXiv 2401.10859, section 4; He et al., ACSAC 2019).
//
// A shadow head is trained, on the attacker's data, to feed the client's frozen server nets so that
// a shadow tail classifies well: its features should then resemble the client's. A decoder trained
// on shadow features is applied to what the client sent.
//
// What makes it strong (SSIM against no protection, CIFAR-10, width 16, oracle .70, each line added
// to those before): the published head with two more convolutions .29, cross-entropy 1.58; the form
// of the client's head alone .39, 0.98; a rate of 5e-3 .41, 0.78; matching the batch-norm
// statistics that the server nets hold .52, 0.77; a rate of 0.02, weight 3 and the best of eight
// starts .55, 0.69; twelve epochs in place of six .60, 0.67. Of five sets of initial weights, three
// ended near a cross-entropy of 1.7 where the best reached 1.1 or less: a shadow that classifies
// poorly has not failed against the defence, it has not been trained. The published attack:
// shadow_layers 2, shadow_starts 1, shadow_bn_weight 0, shadow_lr 1e-3.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "attacks/core/attack.h"
#include "attacks/split/decoding.h"

namespace ens {

// A shadow of the client, frozen. Its functions own what they need but for the view; they may be
// called from one thread at a time and record gradients with respect to their input unless NoGrad
// says otherwise.
struct TrainedShadow {
  std::function<Var(const Var& images)>
      features;  // [B,C,S,S] in [0, 1] -> as the client would send
  std::function<Var(const Var& images)> mean_features;  // in the mean over what it would draw
  std::function<Var(const Var& images)> logits;  // through the server nets and the shadow tail
  std::vector<NamedTensor> head;                 // weights and statistics of the shadow head
  std::vector<float> selector;  // the trained weight of every net; empty if not `weighted`
  double accuracy = 0;          // on the held-out public images
  double cross_entropy = 0;     // the same, in nats: the attacker's own criterion (lower is better)
};

// Trains shadow head and shadow tail around the server nets `nets` (indices into view.bodies) for
// attack.shadow.epochs on data.train. Of attack.shadow.starts initialisations, each tried on
// attack.shadow.start_images, that with the lowest held-out cross-entropy is trained. `weighted`:
// the outputs are scaled by a trainable selector. The same arguments give the same shadow;
// `candidate` names it in progress notes and errors.
TrainedShadow train_shadow(const ServerView& view, const AttackContext& context,
                           const PublicSplit& data, const std::vector<int>& nets, bool weighted,
                           const std::string& candidate, const TrainedShadow* from = nullptr);

// A shadow, a decoder trained on its features, and what that makes of view.observed. The
// self-score is the shadow's negative held-out cross-entropy.
Reconstruction shadow_reconstruction(const QueryFreeView& view, const AttackContext& context,
                                     const PublicSplit& data, const std::vector<int>& nets,
                                     bool weighted, const std::string& candidate);
// The same for a shadow over each of `subsets`, in parallel. Of these, decoded_candidates() get a
// decoder, those with the lowest held-out cross-entropy: one reconstruction for each.
std::vector<Reconstruction> shadow_reconstructions(const QueryFreeView& view,
                                                   const AttackContext& context,
                                                   const PublicSplit& data,
                                                   const std::vector<std::vector<int>>& subsets);

// The outputs of several server nets, each times its own of `weights` [count], side by side along
// axis 1: what a shadow tail reads.
Var weighted_outputs(std::vector<Var> outputs, const Var& weights);

// How far the batches that a probe saw are from what the frozen nets were trained on: the mean over
// batch norms and channels of ((m - mean) / s)^2 + (d / s - 1)^2, with the batch's mean m and
// standard deviation d and the running mean and deviation s. Differentiable. Error if it saw none.
Var statistics_mismatch(const BatchNormProbe& probe);

// Images through one server net while a shadow over it is trained on so many images.
int64_t shadow_passes(const AttackConfig& settings, int64_t train_images);
// Shadows over `net_passes` server nets in all, and `decoders` decoders.
AttackCost shadow_cost(const SplitSetting& setting, const AttackConfig& settings,
                       int64_t net_passes, int64_t decoders);

// not_applicable_reason() of what needs several server nets.
std::string one_net_only(const SplitSetting& setting);

// {0} -> "net 0", {0, 3} -> "nets 0+3".
std::string subset_name(const std::vector<int>& nets);

}  // namespace ens
