// SPDX-License-Identifier: Apache-2.0
#include "nn/modules/module.h"

#include <algorithm>
#include <map>

#include "base/error.h"

namespace ens {

int Module::lower(Graph&, int) const {
  fail("this layer cannot be served", "Module::lower", "use it in training only");
}

void Module::train(bool on) {
  training_ = on && !frozen_;
  for (auto& [name, child] : children_) child->train(on);
}

void Module::freeze() {
  frozen_ = true;
  training_ = false;
  for (const NamedVar& p : parameters_) p.var.set_requires_grad(false);
  for (auto& [name, child] : children_) child->freeze();
}

void Module::collect(const std::string& prefix, std::vector<NamedVar>* parameters,
                     std::vector<NamedTensor>* buffers) const {
  if (parameters) {
    for (const NamedVar& p : parameters_) parameters->push_back({prefix + p.name, p.var});
  }
  if (buffers) {
    for (const Buffer& b : buffers_) buffers->push_back({prefix + b.name, *b.tensor});
  }
  for (const auto& [name, child] : children_) {
    child->collect(prefix + name + ".", parameters, buffers);
  }
}

std::vector<NamedVar> Module::parameters() const {
  std::vector<NamedVar> list;
  collect("", &list, nullptr);
  return list;
}

std::vector<NamedTensor> Module::buffers() const {
  std::vector<NamedTensor> list;
  collect("", nullptr, &list);
  return list;
}

std::vector<NamedTensor> Module::state() const {
  std::vector<NamedTensor> list;
  for (const NamedVar& p : parameters()) list.push_back({p.name, p.var.value()});
  for (NamedTensor& b : buffers()) list.push_back(std::move(b));
  return list;
}

void Module::load_state(const std::vector<NamedTensor>& given, const std::string& source) {
  std::map<std::string, Tensor> by_name;
  for (const NamedTensor& t : given) by_name[t.name] = t.tensor;
  for (const NamedVar& p : parameters()) p.var.set_conv_weight_current(false);
  std::vector<NamedTensor> own = state();
  const std::string hint = "the file belongs to another model or another split";
  for (NamedTensor& mine : own) {
    auto found = by_name.find(mine.name);
    if (found == by_name.end()) fail("weights for '" + mine.name + "' are missing", source, hint);
    if (!(found->second.shape() == mine.tensor.shape())) {
      fail("weights for '" + mine.name + "' have shape " + found->second.shape().str() +
               ", the model needs " + mine.tensor.shape().str(),
           source, hint);
    }
    mine.tensor.copy_from(found->second);
    by_name.erase(found);
  }
  if (!by_name.empty()) {
    fail("weights for '" + by_name.begin()->first + "' fit nothing in the model", source, hint);
  }
}

bool Module::has_host_state() const {
  return std::ranges::any_of(buffers_, [](const Buffer& b) { return !b.moves; }) ||
         std::ranges::any_of(children_,
                             [](const auto& child) { return child.second->has_host_state(); });
}

void Module::to(Device device) {
  for (NamedVar& p : parameters_) p.var.mutable_value() = p.var.value().to(device);
  for (const Buffer& b : buffers_) {
    if (b.moves) *b.tensor = b.tensor->to(device);
  }
  for (auto& [name, child] : children_) child->to(device);
}

Var Module::add_parameter(std::string name, Tensor value) {
  Var v(std::move(value), true);
  parameters_.push_back({std::move(name), v});
  return v;
}

void Module::add_host_counter(std::string name, Tensor& member) {
  member = Tensor::zeros({1});
  buffers_.push_back({std::move(name), &member, /*moves=*/false});
}

void Module::add_module(std::string name, std::shared_ptr<Module> child) {
  children_.emplace_back(std::move(name), std::move(child));
}

}  // namespace ens
