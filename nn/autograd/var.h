// SPDX-License-Identifier: Apache-2.0
// Var: a tensor that remembers how it was computed, for reverse-mode differentiation.
//
// Operations (nn/autograd/ops.h) on Vars that require gradients record a tape; backward() on a
// scalar walks it once and adds into grad() of every leaf. Handles are cheap to copy. A tape
// belongs to one thread at a time; different threads may differentiate different tapes at once,
// also when they share leaves that do not require gradients.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "nn/core/tensor.h"

namespace ens {

class Var {
 public:
  struct Node;

  Var() = default;
  // A leaf. requires_grad: backward() accumulates into grad().
  explicit Var(Tensor value, bool requires_grad = false);

  bool defined() const { return node_ != nullptr; }
  const Tensor& value() const;
  Tensor& mutable_value() const;  // leaves only: for whoever replaces or changes it
  const Shape& shape() const { return value().shape(); }
  int64_t dim(int axis) const { return value().dim(axis); }
  float item() const { return value().item(); }

  bool requires_grad() const;
  void set_requires_grad(bool on) const;  // leaves only
  const Tensor& grad() const;             // undefined tensor before any backward()
  void zero_grad() const;                 // forgets the gradient

  // A convolution's weight as the backend computes with it (Backend::prepare_conv_weight): made
  // when it is used, unless an Optimizer made it for the step. The first is kept, for the Optimizer
  // to bring up to date; so a leaf that requires a gradient takes part in one tape at a time.
  Tensor prepare_conv_weight(Dtype activations) const;
  // For Optimizer: what prepare_conv_weight has kept, undefined if nothing; whether it is up to
  // date.
  const Tensor& kept_conv_weight() const;
  void set_conv_weight_current(bool current) const;

  Var detach() const;  // same value, no history

  // Differentiates this one-element Var. The tape is freed as it is walked: call it once.
  void backward() const;

  // For ops.cc: the result of an operation. `backward` gets dL/d(result) and must call
  // accumulate() for each input that requires a gradient. Recorded only if one does and recording
  // is on.
  static Var make(Tensor value, std::vector<Var> inputs,
                  std::function<void(const Tensor& dy)> backward);
  void accumulate(Tensor gradient) const;

 private:
  std::shared_ptr<Node> node_;
};

// While alive, operations of this thread record nothing: evaluation.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool before_;
};
bool recording();

}  // namespace ens
