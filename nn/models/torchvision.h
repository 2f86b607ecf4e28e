// SPDX-License-Identifier: Apache-2.0
// A classifier's weights under the names that torchvision gives them: resnet18, resnet34 and
// vgg16_bn of torchvision.models. What lies in the files is nn/io/safetensors.h's business.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "nn/models/model.h"

namespace ens {

// The name of an entry of a classifier's state ("stage1.0.downsample.conv.weight" ->
// "layer1.0.downsample.0.weight"); empty for what torchvision does not store: the normalisation of
// the images, counters.
std::string torchvision_name(const ModelSpec& spec, const std::string& name);

// All named entries of the state of a classifier, as build_cells() names them. Prefixes "module."
// and "_orig_mod." are removed and num_batches_tracked is dropped; the biases of VGG's convolutions
// go into the means of their batch norms, and the 7x7 pooling before its first linear layer into
// that layer's weights, where images are not 224 pixels wide. Usage Error, naming `source`, if the
// architecture has no names in torchvision, or an entry is missing, superfluous, of another shape
// or not finite: it says which, both shapes, and what is probably the matter.
std::vector<NamedTensor> from_torchvision(const ModelSpec& spec,
                                          const std::map<std::string, Tensor>& weights,
                                          const std::string& source);

// The entries of `state`, a whole classifier's or a part's, that torchvision stores. VGG's
// convolutions get biases of zero.
std::map<std::string, Tensor> to_torchvision(const ModelSpec& spec,
                                             const std::vector<NamedTensor>& state,
                                             const std::string& source);

}  // namespace ens
