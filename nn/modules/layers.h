// SPDX-License-Identifier: Apache-2.0
// The layers that networks are built from. Initialisation: weights Kaiming-normal (fan out, ReLU)
// for convolutions, Kaiming-uniform for linear layers, biases zero; batch norm at the identity.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "nn/autograd/ops.h"
#include "nn/core/rng.h"
#include "nn/modules/module.h"

namespace ens {

class Sequential : public Module {
 public:
  Sequential() = default;
  // Adds a child named by its position, or by `name`.
  Sequential& push(ModulePtr module);
  Sequential& push(std::string name, ModulePtr module);
  Var forward(const Var& x) override;
  int lower(Graph& graph, int input) const override;
  size_t size() const { return order_.size(); }
  const ModulePtr& operator[](size_t i) const { return order_[i]; }

 private:
  std::vector<ModulePtr> order_;
};

class Conv2d : public Module {
 public:
  Conv2d(int64_t in, int64_t out, int kernel, const ConvSpec& spec, bool bias, Rng& rng);
  Var forward(const Var& x) override;
  int lower(Graph& graph, int input) const override;

 private:
  ConvSpec spec_;
  Var weight_, bias_;
};

class ConvTranspose2d : public Module {
 public:
  ConvTranspose2d(int64_t in, int64_t out, int kernel, const ConvSpec& spec, int output_padding,
                  bool bias, Rng& rng);
  Var forward(const Var& x) override;

 private:
  ConvSpec spec_;
  int output_padding_;
  Var weight_, bias_;
};

class Linear : public Module {
 public:
  Linear(int64_t in, int64_t out, bool bias, Rng& rng);
  Var forward(const Var& x) override;
  int lower(Graph& graph, int input) const override;

 private:
  Var weight_, bias_;
};

// y = (x - mean) / sqrt(var + eps) * gamma + beta, then ReLU if `relu` (fused). eps 1e-5; running
// statistics move by `momentum` 0.1, with the unbiased variance, as PyTorch's. Without `affine`
// gamma and beta stay 1 and 0.
class BatchNorm : public Module {
 public:
  explicit BatchNorm(int64_t channels, bool relu = false, bool affine = true);
  Var forward(const Var& x) override;
  // relu(forward(x) + residual): the end of a residual block.
  Var add_relu(const Var& x, const Var& residual);
  int lower(Graph& graph, int input) const override;

 private:
  BatchNormSpec spec(bool relu) const;
  bool relu_;
  Var gamma_, beta_;
  Tensor mean_, var_;
};

// While alive, notes the input of every batch norm with fixed statistics that this thread
// evaluates, with the statistics that it was trained on: frozen weights tell what data they are
// used to. The newest probe of a thread notes; probes end in the reverse of their order.
class BatchNormProbe {
 public:
  struct Entry {
    Var input;         // [B,C,H,W] or [B,C], with its history
    Tensor mean, var;  // [C]
  };
  BatchNormProbe();
  ~BatchNormProbe();
  BatchNormProbe(const BatchNormProbe&) = delete;
  BatchNormProbe& operator=(const BatchNormProbe&) = delete;
  const std::vector<Entry>& entries() const { return entries_; }  // in the order of evaluation

 private:
  friend class BatchNorm;
  std::vector<Entry> entries_;
  BatchNormProbe* before_;
};

// Input normalisation: (x - mean[c]) / stddev[c]; the numbers are buffers.
class Normalize : public Module {
 public:
  Normalize(const std::vector<float>& mean, const std::vector<float>& stddev);
  Var forward(const Var& x) override;
  int lower(Graph& graph, int input) const override;

 private:
  Tensor scale_, shift_;
};

class Activation : public Module {
 public:
  explicit Activation(UnaryOp op, float a = 0, float b = 0) : op_(op), a_(a), b_(b) {}
  Var forward(const Var& x) override;
  int lower(Graph& graph, int input) const override;

 private:
  UnaryOp op_;
  float a_, b_;
};

class MaxPool : public Module {
 public:
  explicit MaxPool(const PoolSpec& spec) : spec_(spec) {}
  Var forward(const Var& x) override;
  int lower(Graph& graph, int input) const override;

 private:
  PoolSpec spec_;
};

class AvgPool : public Module {
 public:
  explicit AvgPool(const PoolSpec& spec) : spec_(spec) {}
  Var forward(const Var& x) override;
  int lower(Graph& graph, int input) const override;

 private:
  PoolSpec spec_;
};

class GlobalAvgPool : public Module {
 public:
  Var forward(const Var& x) override;
  int lower(Graph& graph, int input) const override;
};

class Flatten : public Module {
 public:
  Var forward(const Var& x) override;
  int lower(Graph& graph, int input) const override;
};

class Dropout : public Module {
 public:
  Dropout(float p, Rng& rng);  // draws its own stream from rng
  Var forward(const Var& x) override;
  int lower(Graph& graph, int input) const override;  // nothing

 private:
  float p_;
  Tensor counter_;  // buffer: so that a resumed training continues the same sequence
  uint64_t key_;
};

// ResNet's basic block: two 3x3 convolutions with batch norm and a shortcut (1x1 convolution with
// batch norm where the shape changes).
class BasicBlock : public Module {
 public:
  BasicBlock(int64_t in, int64_t out, int stride, Rng& rng);
  // Of as many channels and the same size, separable: a depthwise 3x3 convolution, then a 1x1
  // convolution (MobileNet, 2017), in place of the two.
  static std::shared_ptr<BasicBlock> separable(int64_t channels, Rng& rng);
  Var forward(const Var& x) override;
  int lower(Graph& graph, int input) const override;

 private:
  BasicBlock(std::shared_ptr<Conv2d> conv1, std::shared_ptr<Conv2d> conv2, int64_t channels);

  std::shared_ptr<Conv2d> conv1_, conv2_, conv_short_;
  std::shared_ptr<BatchNorm> norm1_, norm2_, norm_short_;
};

}  // namespace ens
