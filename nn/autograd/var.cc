// SPDX-License-Identifier: Apache-2.0
#include "nn/autograd/var.h"

#include <algorithm>
#include <atomic>
#include <unordered_set>

#include "base/error.h"
#include "nn/core/backend.h"

namespace ens {

struct Var::Node {
  Tensor value;
  Tensor grad;
  bool requires_grad = false;
  bool leaf = true;
  Tensor prepare_conv_weight;  // of `value`
  bool conv_weight_current = false;
  uint64_t order = 0;  // creation order: inputs always come before results
  std::vector<Var> inputs;
  std::function<void(const Tensor&)> backward;

  ~Node();
};

namespace {

thread_local bool t_recording = true;
std::atomic<uint64_t> g_order{0};

}  // namespace

// A long tape must not be freed by recursion (inputs of inputs of ...): it would overflow the
// stack.
Var::Node::~Node() {
  backward = nullptr;
  std::vector<Var> pending = std::move(inputs);
  while (!pending.empty()) {
    Var v = std::move(pending.back());
    pending.pop_back();
    if (v.node_ && v.node_.use_count() == 1) {
      v.node_->backward = nullptr;
      for (Var& in : v.node_->inputs) pending.push_back(std::move(in));
      v.node_->inputs.clear();
    }
  }
}

Var::Var(Tensor value, bool requires_grad) : node_(std::make_shared<Node>()) {
  node_->value = std::move(value);
  node_->requires_grad = requires_grad;
  node_->order = g_order.fetch_add(1, std::memory_order_relaxed);
}

const Tensor& Var::value() const {
  if (!node_) fail("an undefined Var has no value", "Var");
  return node_->value;
}

Tensor& Var::mutable_value() const {
  if (!node_ || !node_->leaf) fail("only a leaf's value can be changed", "Var");
  node_->prepare_conv_weight = Tensor();  // it may move to another device
  node_->conv_weight_current = false;
  return node_->value;
}

bool Var::requires_grad() const { return node_ && node_->requires_grad; }

void Var::set_requires_grad(bool on) const {
  if (!node_ || !node_->leaf) fail("only a leaf can be told to require gradients", "Var");
  node_->requires_grad = on;
  if (!on) node_->prepare_conv_weight = Tensor();  // nobody will bring it up to date
}

const Tensor& Var::grad() const {
  if (!node_) fail("an undefined Var has no gradient", "Var");
  return node_->grad;
}

void Var::zero_grad() const {
  if (node_) node_->grad = Tensor();
}

Tensor Var::prepare_conv_weight(Dtype activations) const {
  Node& node = *node_;
  const bool kept =
      node.prepare_conv_weight.defined() && node.prepare_conv_weight.dtype() == activations;
  if (kept && node.conv_weight_current) return node.prepare_conv_weight;
  Tensor made = backend(value().device()).prepare_conv_weight(value(), activations);
  // What is kept stays: a captured step may refer to its memory.
  if (!kept && node.leaf && node.requires_grad && t_recording) {
    node.prepare_conv_weight = made;
    node.conv_weight_current = false;
  }
  return made;
}

const Tensor& Var::kept_conv_weight() const { return node_->prepare_conv_weight; }

void Var::set_conv_weight_current(bool current) const { node_->conv_weight_current = current; }

Var Var::detach() const { return Var(value()); }

Var Var::make(Tensor value, std::vector<Var> inputs,
              std::function<void(const Tensor& dy)> backward) {
  Var out(std::move(value));
  const bool needed =
      t_recording && std::ranges::any_of(inputs, [](const Var& v) { return v.requires_grad(); });
  if (needed) {
    out.node_->requires_grad = true;
    out.node_->leaf = false;
    out.node_->inputs = std::move(inputs);
    out.node_->backward = std::move(backward);
  }
  return out;
}

void Var::accumulate(Tensor gradient) const {
  if (!requires_grad()) return;
  // A weight's gradient comes in the activations' type: fine enough for an optimiser to take, not
  // for a sum, or for what comes before the weight.
  if (!node_->leaf) gradient = gradient.to(node_->value.dtype());
  Tensor& grad = node_->grad;
  if (!grad.defined()) {
    grad = std::move(gradient);
    return;
  }
  grad = grad.to(node_->value.dtype());
  // The first gradient may be shared with another Var (add passes one tensor to both inputs), so
  // the sum goes to new memory.
  grad = backend(grad.device()).binary(BinaryOp::kAdd, grad, gradient);
}

void Var::backward() const {
  if (!node_ || node_->value.numel() != 1) {
    fail("backward() starts at one number, this is " + (node_ ? shape().str() : "undefined"),
         "Var");
  }
  if (!node_->requires_grad) return;
  // Collect the tape, then walk it from the newest node to the oldest.
  std::vector<Var> tape;
  std::unordered_set<const Node*> seen;
  std::vector<Var> pending{*this};
  while (!pending.empty()) {
    Var v = std::move(pending.back());
    pending.pop_back();
    if (!v.node_->backward || !seen.insert(v.node_.get()).second) continue;
    for (const Var& in : v.node_->inputs) {
      if (in.requires_grad()) pending.push_back(in);
    }
    tape.push_back(std::move(v));
  }
  std::ranges::sort(tape,
                    [](const Var& a, const Var& b) { return a.node_->order < b.node_->order; });
  node_->grad = Tensor::full(shape(), 1.0f, node_->value.dtype(), node_->value.device());
  while (!tape.empty()) {
    Var v = std::move(tape.back());
    tape.pop_back();
    Node& node = *v.node_;
    if (node.grad.defined()) node.backward(node.grad);
    node.grad = Tensor();  // an intermediate gradient is not needed again
    node.backward = nullptr;
    node.inputs.clear();
  }
}

NoGrad::NoGrad() : before_(t_recording) { t_recording = false; }
NoGrad::~NoGrad() { t_recording = before_; }
bool recording() { return t_recording; }

}  // namespace ens
