// SPDX-License-Identifier: Apache-2.0
// What training does to a feature: the steps of make_protection(), as differentiable operations.
#pragma once

#include <functional>

#include "ensemble/protect/step.h"
#include "nn/core/rng.h"
#include "nn/modules/module.h"

namespace ens {

// The steps of a protection in order, in training and in evaluation mode alike; FeatureStep::Form
// says how. The fixed noise is a buffer; so is the count of calls, which with `key` determines
// every draw: a training that is resumed from its state continues the same sequence.
class FeatureTraining : public Module {
 public:
  // With one fixed noise at most. `key`: of the stream of draws; not secret, since nothing drawn
  // here is used again.
  FeatureTraining(const ProtectionSpec& spec, uint64_t key);
  Var forward(const Var& features) override;

  // From now on forward() does the step with other values than spec() has.
  void set_values(const std::string& step, const Tensor& values);

  // What the edge is to do: the same steps, with the noise as it is now.
  ProtectionSpec spec() const;

 private:
  ProtectionSpec spec_;
  std::vector<std::unique_ptr<FeatureStep>> steps_;
  uint64_t key_;
  Tensor noise_;  // undefined if there is none
  Tensor calls_;  // undefined if there is nothing but the noise
};

// The steps in the mean over what they draw: it is multiplied by the mean_factor(), the
// mean_noise() is added, small elements are set to zero and features scaled where a step does that;
// differentiable, thread-safe. Empty if nothing is left.
std::function<Var(const Var& features)> mean_protection(const ProtectionSpec& spec);
// What the channel of a spec (channel.h) does to the head's output: scales it and adds noise drawn
// from `noise`, or is taken in the mean if that is null; differentiable, float32, thread-safe.
// Empty if there is no channel.
std::function<Var(const Var& features, Rng* noise)> channel_map(const ProtectionSpec& spec);
// Whether two features of one image differ.
bool draws_anew(const ProtectionSpec& spec);

// The generator of one call: its own stream, and `calls` is advanced.
Rng next_stream(uint64_t key, Tensor& calls);

}  // namespace ens
