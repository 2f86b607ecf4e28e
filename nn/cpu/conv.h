// SPDX-License-Identifier: Apache-2.0
// The CPU's implementations of convolutions as one ordered list: the first that does not say why
// not computes a convolution. `ensembler info --kernels` prints the list for a network's layers.
//
// The list serves two callers: the verbs of a training (conv.cc), which pack the weight in every
// call, and compiled networks (program.cc), which pack it once for all batch sizes.
#pragma once

#include <span>
#include <string_view>

#include "nn/core/backend.h"

namespace ens::cpu {

// The dtypes of a convolution on this processor, which may lack instructions for those asked for.
struct ConvDtypes {
  Dtype activations;  // and of the arithmetic; sums are float32
  Dtype weights;      // as they are kept
};
ConvDtypes serving_dtypes(Dtype dtype);   // in a compiled network that was asked for `dtype`
ConvDtypes training_dtypes(Dtype dtype);  // in the verbs

struct ConvImplementation {
  enum class Kind { kBlockConv, kDenseSmallMap, kOneDnn };

  Kind kind;
  const char* name;
  const char* description;
  // Why this does not compute the convolution, on this processor; null if it does.
  const char* (*why_not)(const ConvProblem&);
  // Backend's verbs. The problem holds the shapes of x, w and y in each; none has an empty tensor.
  Tensor (*forward)(Backend&, const ConvProblem&, const Tensor& x, const Tensor& w,
                    const Tensor& bias);
  Tensor (*grad_input)(Backend&, const ConvProblem&, const Tensor& dy, const Tensor& w);
  Tensor (*grad_weight)(Backend&, const ConvProblem&, const Tensor& x, const Tensor& dy);
};

// Best first; the last computes every convolution.
std::span<const ConvImplementation> conv_implementations();

// For tests: from now on every convolution of the process is computed by this implementation, and
// one that it does not compute is a Usage Error that says why. An empty name ends that. Networks
// keep what was forced when they were compiled. Usage Error for an unknown name, with those known.
void force_conv_implementation(std::string_view name);
const ConvImplementation* forced_conv_implementation();  // null: none

const ConvImplementation& choose_conv(
    const ConvProblem& problem, const ConvImplementation* forced = forced_conv_implementation());

}  // namespace ens::cpu
