// SPDX-License-Identifier: Apache-2.0
// Optimisers over named parameters. Update rules are PyTorch's (torch.optim.SGD, Adam, AdamW).
#pragma once

#include <string>
#include <vector>

#include "nn/modules/module.h"

namespace ens {

struct OptimSpec {
  enum class Kind { kSgd, kAdam, kAdamW };
  Kind kind = Kind::kSgd;
  float momentum = 0.9f;                            // kSgd
  bool nesterov = true;                             // kSgd with momentum > 0
  float beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f;  // kAdam, kAdamW
  bool amsgrad = false;                             // kAdam, kAdamW
  float weight_decay = 0;
};

// "sgd", "adam" (with AMSGrad), "adamw". Usage Error for anything else.
OptimSpec::Kind parse_optimizer(const std::string& name);

// Holds float32 state for each parameter that requires gradients at construction.
class Optimizer {
 public:
  Optimizer(std::vector<NamedVar> parameters, const OptimSpec& spec);

  // Before a step's loss, where the step may be captured: weights in the form that convolutions
  // want, all in one go instead of each when it is used.
  void prepare();
  // Updates every parameter that has a gradient, then forgets the gradients: set_rate, then apply.
  void step(float lr);
  // The two halves, for a captured step: copying what changes to the device, and the rest.
  void set_rate(float lr);
  void apply();
  void zero_grad();
  // Scales all gradients so that their joint Euclidean norm is at most `limit`; returns the norm.
  float clip_gradients(float limit);

  // For exact resumption: all moments and the step count, named after the parameters.
  std::vector<NamedTensor> state() const;
  void load_state(const std::vector<NamedTensor>& state, const std::string& source);

 private:
  struct Slot {
    NamedVar param;
    Tensor first, second, max_second;  // momentum or mean; square; AMSGrad's maximum
  };
  OptimSpec spec_;
  std::vector<Slot> slots_;
  int64_t steps_ = 0;
  Tensor rates_;  // Backend::sgd_step's, on the parameters' device
};

}  // namespace ens
