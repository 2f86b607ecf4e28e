// SPDX-License-Identifier: Apache-2.0
// What the edge does to a smashed feature before it is sent, as data and as code. Plain C++ on CPU
// tensors: the edge links this and no training code. What trains a protection sits beside it in a
// *_train file, in a library of its own.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/key_stream.h"
#include "nn/core/tensor.h"

namespace ens {

// One step of a protection as it lies in the edge bundle.
struct ProtectionStep {
  std::string name;  // of the step's file in this folder, which says what it does
  Tensor values;     // float32, CPU: what the step is made of, as its file says
};

// A protection: its steps in the order in which they are applied. Empty: nothing is done.
using ProtectionSpec = std::vector<ProtectionStep>;

// The values of the first step of that name; null if there is none.
const Tensor* find_values(const ProtectionSpec& spec, const std::string& name);

class Protection {
 public:
  virtual ~Protection() = default;
  // features [B,C,H,W] (or [B,C]) float32, CPU, plain; changed in place. Thread-safe. Error if they
  // do not fit the protection. `seeds`: where the noise of a channel (channel.h) comes from, one
  // for each image and never the same for two; none: from the operating system.
  virtual void apply(Tensor& features, std::span<const Seed> seeds) const = 0;
  void apply(Tensor& features) const { apply(features, {}); }
};

// All steps of `spec`, in order. Usage Error for an impossible spec. Draws come from a generator
// that every call seeds from the operating system's cryptographic source.
std::unique_ptr<Protection> make_protection(const ProtectionSpec& spec);

// Whether this version of the program has the step.
bool is_known_step(const std::string& name);

// Usage Error unless the spec can be applied to features of shape `feature`: names, shapes, finite
// numbers, ranges. Says nothing of the values.
void check(const ProtectionSpec& spec, const Shape& feature);

// What somebody who knows the spec but not the draws must expect to be added: the fixed noise, or
// the mean of a bank; undefined if there is none. It says nothing of the other steps.
Tensor mean_noise(const ProtectionSpec& spec);
// The same of what the feature must be expected to be multiplied by: the mean of a bank of factors.
Tensor mean_factor(const ProtectionSpec& spec);

}  // namespace ens
