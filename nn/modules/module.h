// SPDX-License-Identifier: Apache-2.0
// Module: a layer, or a tree of them, with named parameters and buffers.
//
// Parameters are trained; buffers (batch-norm statistics, input normalisation) are state that
// travels with the weights. Names are paths such as "stage1.0.conv1.weight", stable across runs:
// they are the names in checkpoints. A module is used by one thread at a time.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nn/autograd/var.h"
#include "nn/core/graph.h"

namespace ens {

struct NamedVar {
  std::string name;
  Var var;
};
struct NamedTensor {
  std::string name;
  Tensor tensor;
};

class Module {
 public:
  Module() = default;
  Module(const Module&) = delete;  // buffers are known by the members that hold them
  Module& operator=(const Module&) = delete;
  virtual ~Module() = default;

  // x: one batch. Behaves by training(): batch norm and dropout differ.
  virtual Var forward(const Var& x) = 0;

  // Appends this layer, as it behaves when not training, to `graph`; returns the value it produces.
  // Weights are shared with the module (not copied). Error for layers that are never served.
  virtual int lower(Graph& graph, int input) const;

  bool training() const { return training_; }
  // Training mode for this module and all below. A frozen module stays in evaluation mode.
  void train(bool on = true);
  // Freezing: parameters stop requiring gradients and batch-norm statistics stop moving, for good.
  void freeze();
  bool frozen() const { return frozen_; }

  // In registration order, depth first.
  std::vector<NamedVar> parameters() const;
  std::vector<NamedTensor> buffers() const;
  // Parameters and buffers together: everything a checkpoint needs.
  std::vector<NamedTensor> state() const;
  // Copies values by name. Error names the first missing, extra or wrong-shaped entry.
  void load_state(const std::vector<NamedTensor>& state, const std::string& source);
  // Whether this or a module below it has a counter on the host, so that each call differs.
  bool has_host_state() const;
  // Moves parameters and buffers, but for counters. Do this before making an optimiser.
  void to(Device device);

 protected:
  Var add_parameter(std::string name, Tensor value);
  // A member that holds its value already: write into it, do not replace it. A counter is read by
  // the host at every call and stays on the CPU.
  void add_buffer(std::string name, Tensor& member) {
    buffers_.push_back({std::move(name), &member});
  }
  void add_host_counter(std::string name, Tensor& member);
  void add_module(std::string name, std::shared_ptr<Module> child);
  template <typename M>
  std::shared_ptr<M> add(std::string name, std::shared_ptr<M> child) {
    add_module(std::move(name), child);
    return child;
  }

 private:
  void collect(const std::string& prefix, std::vector<NamedVar>* parameters,
               std::vector<NamedTensor>* buffers) const;

  bool training_ = true;
  bool frozen_ = false;
  std::vector<NamedVar> parameters_;
  struct Buffer {
    std::string name;
    Tensor* tensor;
    bool moves = true;
  };
  std::vector<Buffer> buffers_;
  std::vector<std::pair<std::string, std::shared_ptr<Module>>> children_;
};

using ModulePtr = std::shared_ptr<Module>;

}  // namespace ens
