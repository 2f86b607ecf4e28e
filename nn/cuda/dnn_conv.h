// SPDX-License-Identifier: Apache-2.0
// One convolution in cuDNN's graph interface, and the ways that cuDNN knows to compute it.
//
// What is to be computed is a small graph of descriptors: the convolution, and for the forward pass
// what is fused behind it. For a graph cuDNN suggests configurations of its engines, likeliest
// first. A configuration becomes a plan, which can be executed.
//
// Nothing but execution needs a GPU: the suggestions for a GPU that is not there can be had, and
// made into plans, from a description of it (DnnTarget::properties; cuDNN 9.8 or newer).
#pragma once

#include <cudnn.h>

#include <memory>
#include <string>
#include <vector>

#include "nn/core/backend.h"
#include "nn/core/tensor.h"

namespace ens::cuda {

// A convolution over images and weights that lie channels last, in `dtype`, with float32 sums.
struct DnnConv {
  enum class Pass {
    kForward,     // y from x and w
    kGradInput,   // x from w and y
    kGradWeight,  // w from x and y
  };
  Pass pass = Pass::kForward;
  Dtype dtype = Dtype::kF32;  // of all operands
  // Forward: x and w are Float8s instead, and the sums are multiplied by a scale for each output
  // channel first: float32, [O].
  bool float8 = false;
  bool tf32 = true;  // float32 products may round their factors to TF32
  Shape x, w, y;     // [N, C, H, W], [O, C / groups, kh, kw], [N, O, OH, OW]
  ConvSpec spec;
  // Forward: y = conv(x), + z (shape of y), + bias [O], then ReLU, each if wanted.
  bool z = false, bias = false, relu = false;

  std::vector<int64_t> key() const;  // equal for equal convolutions
};

// Where the operands lie, all at multiples of 16 bytes; those that the convolution does not have
// are not looked at.
struct DnnOperands {
  const void *x = nullptr, *w = nullptr, *y = nullptr, *z = nullptr, *bias = nullptr,
             *scale = nullptr;
};

// What plans are for: the GPU of a handle or, to be built only, the one that cuDNN's JSON
// describes.
struct DnnTarget {
  cudnnHandle_t handle = nullptr;
  std::string properties;
};

// cuDNN's name for an object; destroys it.
class DnnDescriptor {
 public:
  explicit DnnDescriptor(cudnnBackendDescriptorType_t type);
  ~DnnDescriptor();
  DnnDescriptor(DnnDescriptor&& other) noexcept;
  DnnDescriptor& operator=(DnnDescriptor&&) = delete;
  cudnnBackendDescriptor_t get() const { return d_; }

 private:
  cudnnBackendDescriptor_t d_ = nullptr;
};

class DnnPlan {
 public:
  size_t workspace() const { return workspace_; }  // bytes

  // On the handle's stream. For one thread at a time: cuDNN does not promise more. What it answers
  // is for the caller: an engine may refuse only here.
  cudnnStatus_t run(cudnnHandle_t handle, const DnnOperands& operands, void* workspace) const;

 private:
  friend class DnnEngines;
  DnnPlan(const DnnConv& conv, DnnDescriptor plan, size_t workspace)
      : scale_(conv.float8),
        z_(conv.z),
        bias_(conv.bias),
        plan_(std::move(plan)),
        workspace_(workspace) {}
  bool scale_, z_, bias_;  // what it has
  DnnDescriptor plan_;
  size_t workspace_;
};

// cuDNN's suggestions. Configurations whose numbers depend on the order of threads, or whose sums
// are less exact than float32, come after all others.
class DnnEngines {
 public:
  // Error if cuDNN finds the convolution malformed.
  DnnEngines(const DnnConv& conv, const DnnTarget& target);
  int count() const { return static_cast<int>(configs_.size()); }
  // Null where the suggestion turns out not to work. 0 <= i < count().
  std::unique_ptr<DnnPlan> plan(int i) const;

 private:
  DnnConv conv_;
  cudnnHandle_t handle_;
  std::vector<DnnDescriptor> parts_;    // the graph and what it is made of
  std::unique_ptr<DnnDescriptor> gpu_;  // undefined: the handle's
  std::vector<DnnDescriptor> configs_;
};

}  // namespace ens::cuda
