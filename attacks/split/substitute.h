// SPDX-License-Identifier: Apache-2.0
// What a query-free attacker who aligns distributions puts in the client's place, and the means
// that alignment.cc and fora.cc share: the features that the client sent in random order, critics,
// and the choice of the polarity by the server nets.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attacks/core/metrics.h"
#include "attacks/split/alignment.h"
#include "attacks/split/decoding.h"
#include "nn/core/rng.h"
#include "nn/data/loader.h"
#include "nn/optim/optim.h"

namespace ens {

// By how much another polarity must be better before training changes to it: the criterion is
// noisy, and a change costs many steps.
inline constexpr double kPolarityMargin = 0.03;

// A head of the client's form on images in one polarity, its channels brought to the client's size,
// and a map added for the noise that the client draws once; or, where the client has a channel,
// scaled and with noise as there. One thread at a time.
class Substitute {
 public:
  // `candidate` names it in progress notes. What is given must outlive it.
  Substitute(const TrafficView& view, const AttackContext& context, const PublicSplit& data,
             std::string candidate, Rng& rng);
  ~Substitute();

  // Brings each channel's deviation to that of `wanted`: small steps of training would be long in
  // getting there.
  void set_size(const FeatureMoments& wanted);
  // Images [B,C,S,S] in [0, 1] -> features, float32: what compares distributions wants the
  // precision.
  Var forward(const Tensor& images);
  Tensor features(const Tensor& images);  // the same, on the device, without gradients
  std::vector<NamedVar> parameters() const;
  void freeze();

  // 0 without server nets; else minus the cross-entropy of a tail fitted to the outputs of all
  // server nets to the substitute's features, on public images that the tail has not seen: no truth
  // is needed.
  double criterion();
  // Changes to the polarity whose criterion is the best, if it is better by `margin`: distributions
  // leave symmetries of the images open, and the server nets classify best what they were trained
  // for.
  void choose_polarity(double margin);
  Polarity polarity() const { return polarity_; }
  // Images through networks for so many choices and one more criterion.
  static int64_t cost_in_images(const SplitSetting& setting, int choices);

 private:
  class Head;
  double criterion(Polarity polarity);
  Tensor features(const Tensor& images, Polarity polarity);

  const TrafficView& view_;
  const AttackContext& context_;
  const PublicSplit& data_;
  const std::string candidate_;
  const uint64_t criterion_seed_;
  std::shared_ptr<Head> head_;
  Polarity polarity_ = Polarity::kAsIs;
};

// The client's tail over the outputs of all server nets, weighted by a trainable selector.
class ShadowTail : public Module {
 public:
  ShadowTail(const ServerView& view, Device device, Rng& rng);
  // All outputs side by side along axis 1, as server_outputs() gives them.
  Var forward(const Var& joined) override;

 private:
  std::shared_ptr<Sequential> tail_;
  Var selector_;
};
// What all server nets say to features [B,C,H,W], side by side along axis 1.
Var server_outputs(const ServerView& view, Dtype dtype, const Var& features);

// WGAN-GP's penalty, the mean of (|dD/dz| - 1)^2 over points z between the rows of `real` and
// `fake` [B,C,H,W], drawn by `rng`; a scalar. That wants second derivatives, which this tape has
// not. The norm is measured by a central difference along the gradient instead, of which the
// critic's weights have first derivatives; as the gradient is the steepest direction, the error of
// the penalty and of its derivatives is of second order in the step.
Var gradient_penalty(Module& critic, const Tensor& real, const Tensor& fake, Rng& rng);

// All features that the server has seen, in one random order after another.
class ObservedFeatureSampler {
 public:
  ObservedFeatureSampler(const TrafficView& view, uint64_t seed);
  std::span<const Tensor> parts() const { return parts_; }
  Tensor next(int64_t n);  // rows, on the CPU

 private:
  std::vector<Tensor> parts_;
  int64_t count_ = 0;
  Rng rng_;
  std::vector<int64_t> order_;
  int64_t at_ = 0;
};
// The images of `data` in batches, mirrored at random, one pass after another. `data` must outlive
// it.
class ImageSampler {
 public:
  ImageSampler(const Dataset& data, int64_t batch, uint64_t seed);
  const Batch& next();  // until the next call

 private:
  Loader loader_;
  Batch batch_;
  int64_t epoch_ = 0;
};
// Usage Error, naming `attack`, if there are no features to align with or they are no maps.
void require_traffic(const TrafficView& view, const std::string& attack);

}  // namespace ens
