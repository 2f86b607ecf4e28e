// SPDX-License-Identifier: Apache-2.0
// The weights and biases of a compiled network, in every form in which its operations want them.
// Internal to nn/cpu: program.h describes the network, executable.h is what others use.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "nn/core/graph.h"
#include "nn/cpu/block_conv.h"
#include "nn/cpu/dense_small_map.h"
#include "nn/cpu/dnnl_util.h"

namespace ens::cpu {

// Each form is packed once and then shared by all batch sizes. The memory lives as long as *this.
//
// The first form of a constant is made from the graph's tensor, which settle() lets go of. A later
// form is made from the first one, by a oneDNN reorder; only get() can do that.
class PackedConstants {
 public:
  explicit PackedConstants(const Graph& graph);

  const Shape& weight_shape(size_t step) const { return layers_[step].weight_shape; }
  bool has_bias(size_t step) const { return layers_[step].has_bias; }

  // `plain` describes the graph's tensor; `wanted` the format that the operation reads.
  dnnl::memory weight(size_t step, const MemoryDesc& plain, const MemoryDesc& wanted) {
    return get(step, kWeight, plain, wanted);
  }
  dnnl::memory bias(size_t step, const MemoryDesc& plain) { return get(step, kBias, plain, plain); }
  // The weight [O, C, kh, kw] as a matrix [q * O + o, p * C + c] in the format `wanted`, and the
  // bias [O] once for each output pixel: [q * O + o].
  dnnl::memory dense_weight(size_t step, const DenseSmallMap& map, const MemoryDesc& wanted);
  dnnl::memory dense_bias(size_t step, const DenseSmallMap& map, const MemoryDesc& plain);
  // The weight as BlockConv packs it.
  dnnl::memory block_weight(size_t step, const BlockConv& conv);
  // A vector of n equal float32 elements.
  dnnl::memory filled(int64_t n, float value);

  // Lets go of the graph's tensors, and moves what is packed so far into one block of memory in the
  // order of use: a small batch reads all of it once, and waits less for it in large pages.
  void settle();
  size_t bytes() const { return bytes_; }

 private:
  // Which constant of a step; a graph's tensor is the source of the first two.
  enum Which { kWeight, kBias, kDenseWeight, kDenseBias, kBlockWeight, kWhichCount };

  struct Packed {
    MemoryDesc desc;
    std::shared_ptr<void> storage;
    dnnl::memory data;
  };
  struct Layer {
    Shape weight_shape;
    bool has_bias;
    std::array<Tensor, 2> source;
    std::array<std::vector<Packed>, kWhichCount> packed;  // the forms of each constant
  };

  dnnl::memory get(size_t step, Which which, const MemoryDesc& plain, const MemoryDesc& wanted);
  Packed make(const MemoryDesc& desc);
  dnnl::memory add(std::vector<Packed>& forms, const dnnl::memory& source,
                   const MemoryDesc& wanted);

  std::vector<Layer> layers_;
  std::map<std::pair<int64_t, float>, Packed> filled_;
  size_t bytes_ = 0;
};

}  // namespace ens::cpu
