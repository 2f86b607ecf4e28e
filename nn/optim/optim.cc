// SPDX-License-Identifier: Apache-2.0
#include "nn/optim/optim.h"

#include <cmath>
#include <map>

#include "base/error.h"
#include "nn/core/backend.h"

namespace ens {

OptimSpec::Kind parse_optimizer(const std::string& name) {
  if (name == "sgd") return OptimSpec::Kind::kSgd;
  if (name == "adam") return OptimSpec::Kind::kAdam;
  if (name == "adamw") return OptimSpec::Kind::kAdamW;
  usage_fail("unknown optimizer '" + name + "'", "optimizer", "use sgd, adam or adamw");
}

Optimizer::Optimizer(std::vector<NamedVar> parameters, const OptimSpec& spec) : spec_(spec) {
  for (NamedVar& p : parameters) {
    if (!p.var.requires_grad()) continue;
    Slot slot;
    const Shape& shape = p.var.shape();
    const Device device = p.var.value().device();
    slot.first = Tensor::zeros(shape, Dtype::kF32, device);
    if (spec.kind != OptimSpec::Kind::kSgd) {
      slot.second = Tensor::zeros(shape, Dtype::kF32, device);
      if (spec.amsgrad) slot.max_second = Tensor::zeros(shape, Dtype::kF32, device);
    }
    if (slots_.empty()) rates_ = Tensor::empty({3}, Dtype::kF32, device);
    slot.param = std::move(p);
    slots_.push_back(std::move(slot));
  }
}

void Optimizer::prepare() {
  std::vector<Tensor> from, to;
  for (const Slot& slot : slots_) {
    const Tensor& kept = slot.param.var.kept_conv_weight();
    if (!kept.defined()) continue;
    from.push_back(slot.param.var.value());
    to.push_back(kept);
  }
  if (from.empty()) return;
  backend(rates_.device()).prepare_conv_weights(from, to);
  for (const Slot& slot : slots_) slot.param.var.set_conv_weight_current(true);
}

void Optimizer::step(float lr) {
  set_rate(lr);
  apply();
}

void Optimizer::set_rate(float lr) {
  ++steps_;
  if (!rates_.defined()) return;
  const auto t = static_cast<double>(steps_);
  const double rest1 = 1.0 - std::pow(static_cast<double>(spec_.beta1), t);
  const double rest2 = 1.0 - std::pow(static_cast<double>(spec_.beta2), t);
  rates_.copy_from(Tensor::from(
      {lr, static_cast<float>(1.0 / rest1), static_cast<float>(1.0 / std::sqrt(rest2))}, {3}));
}

void Optimizer::apply() {
  std::vector<Update> updates;
  for (Slot& slot : slots_) {
    slot.param.var.set_conv_weight_current(false);
    const Tensor& grad = slot.param.var.grad();
    if (!grad.defined()) continue;
    updates.push_back({slot.param.var.value(), grad, slot.first, slot.second, slot.max_second});
  }
  if (!updates.empty()) {
    Backend& be = backend(rates_.device());
    if (spec_.kind == OptimSpec::Kind::kSgd) {
      be.sgd_step(updates, rates_, {spec_.momentum, spec_.weight_decay, spec_.nesterov});
    } else {
      be.adam_step(updates, rates_,
                   {spec_.beta1, spec_.beta2, spec_.eps, spec_.weight_decay,
                    spec_.kind == OptimSpec::Kind::kAdamW});
    }
  }
  zero_grad();
}

void Optimizer::zero_grad() {
  for (Slot& slot : slots_) slot.param.var.zero_grad();
}

float Optimizer::clip_gradients(float limit) {
  double total = 0;
  for (Slot& slot : slots_) {
    const Tensor& g = slot.param.var.grad();
    if (!g.defined()) continue;
    Backend& be = backend(g.device());
    const Tensor flat =
        be.unary(UnaryOp::kSquare, g.to(Dtype::kF32), 0, 0).plain().reshape({g.numel()});
    total += be.sum_to(flat, {1}).item();
  }
  const float norm = static_cast<float>(std::sqrt(total));
  if (norm > limit && norm > 0) {
    for (Slot& slot : slots_) {
      Tensor g = slot.param.var.grad();
      if (!g.defined()) continue;
      slot.param.var.zero_grad();
      slot.param.var.accumulate(
          backend(g.device()).unary(UnaryOp::kAffine, g.to(Dtype::kF32), limit / norm, 0));
    }
  }
  return norm;
}

std::vector<NamedTensor> Optimizer::state() const {
  std::vector<NamedTensor> list;
  // Two halves: float32 alone could not count past 2^24.
  list.push_back({"steps", Tensor::from({static_cast<float>(steps_ >> 20),
                                         static_cast<float>(steps_ & 0xfffff)},
                                        {2})});
  for (const Slot& slot : slots_) {
    list.push_back({slot.param.name + ".first", slot.first});
    if (slot.second.defined()) list.push_back({slot.param.name + ".second", slot.second});
    if (slot.max_second.defined()) list.push_back({slot.param.name + ".max", slot.max_second});
  }
  return list;
}

void Optimizer::load_state(const std::vector<NamedTensor>& state, const std::string& source) {
  std::map<std::string, Tensor> by_name;
  for (const NamedTensor& t : state) by_name[t.name] = t.tensor;
  auto find = [&](const std::string& name) {
    auto it = by_name.find(name);
    if (it == by_name.end()) {
      fail("the optimiser's '" + name + "' is missing", source,
           "the checkpoint belongs to another configuration; start a new run folder");
    }
    return it->second;
  };
  const std::vector<float> steps = find("steps").to_vector();
  steps_ = (static_cast<int64_t>(steps[0]) << 20) + static_cast<int64_t>(steps[1]);
  for (Slot& slot : slots_) {
    slot.first.copy_from(find(slot.param.name + ".first"));
    if (slot.second.defined()) slot.second.copy_from(find(slot.param.name + ".second"));
    if (slot.max_second.defined()) slot.max_second.copy_from(find(slot.param.name + ".max"));
  }
}

}  // namespace ens
