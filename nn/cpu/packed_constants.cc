// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/packed_constants.h"

#include <algorithm>
#include <cstring>

#include "nn/cpu/allocator.h"

namespace ens::cpu {

using dnnl::memory;
using Tag = memory::format_tag;

namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kWorthMoving = size_t{4} << 20;  // weights of a network, in bytes

}  // namespace

PackedConstants::PackedConstants(const Graph& graph) {
  for (const GraphStep& s : graph.steps) {
    layers_.push_back({s.weight.shape(), s.bias.defined(), {s.weight, s.bias}, {}});
  }
}

memory PackedConstants::get(size_t step, Which which, const MemoryDesc& plain,
                            const MemoryDesc& wanted) {
  std::vector<Packed>& forms = layers_[step].packed[which];
  for (const Packed& p : forms) {
    if (p.desc == wanted) return p.data;
  }
  return add(forms, forms.empty() ? bind(plain, layers_[step].source[which].host()) : forms[0].data,
             wanted);
}

memory PackedConstants::dense_weight(size_t step, const DenseSmallMap& map,
                                     const MemoryDesc& wanted) {
  std::vector<Packed>& forms = layers_[step].packed[kDenseWeight];
  for (const Packed& p : forms) {
    if (p.desc == wanted) return p.data;
  }
  if (!forms.empty()) return add(forms, forms[0].data, wanted);
  const Tensor& weight = layers_[step].source[kWeight];
  const int64_t channels = weight.dim(1), area = weight.dim(2) * weight.dim(3);
  const MemoryDesc plain({weight.dim(0) * map.outputs(), channels * map.inputs()},
                         memory::data_type::f32, Tag::ab);
  Buffer matrix(plain.get_size());
  const float* w = weight.data<float>();
  float* out = matrix.as<float>();
  for (int64_t q = 0; q < map.outputs(); ++q) {
    for (int64_t o = 0; o < weight.dim(0); ++o) {
      for (int64_t p = 0; p < map.inputs(); ++p) {
        const int64_t tap = map.tap(p, q);
        for (int64_t c = 0; c < channels; ++c) {
          *out++ = tap < 0 ? 0.0f : w[(o * channels + c) * area + tap];
        }
      }
    }
  }
  return add(forms, bind(plain, matrix.data()), wanted);
}

memory PackedConstants::dense_bias(size_t step, const DenseSmallMap& map, const MemoryDesc& plain) {
  std::vector<Packed>& forms = layers_[step].packed[kDenseBias];
  if (!forms.empty()) return forms[0].data;
  const memory once = bias(step, plain);
  const auto* values = static_cast<const float*>(once.get_data_handle());
  std::vector<float> all;
  for (int64_t q = 0; q < map.outputs(); ++q) {
    all.insert(all.end(), values, values + layers_[step].weight_shape[0]);
  }
  const MemoryDesc wanted({static_cast<int64_t>(all.size())}, memory::data_type::f32, Tag::a);
  return add(forms, bind(wanted, all.data()), wanted);
}

memory PackedConstants::block_weight(size_t step, const BlockConv& conv) {
  std::vector<Packed>& forms = layers_[step].packed[kBlockWeight];
  if (!forms.empty()) return forms[0].data;
  forms.push_back(
      make({{static_cast<int64_t>(conv.packed_bytes())}, memory::data_type::u8, Tag::a}));
  conv.pack(layers_[step].source[kWeight].data<float>(), forms[0].storage.get());
  return forms[0].data;
}

memory PackedConstants::filled(int64_t n, float value) {
  Packed& p = filled_[{n, value}];
  if (!p.storage) {
    p = make({{n}, memory::data_type::f32, Tag::a});
    std::fill_n(static_cast<float*>(p.storage.get()), n, value);
  }
  return p.data;
}

void PackedConstants::settle() {
  size_t total = 0;
  const auto each = [this](auto&& f) {
    for (Layer& layer : layers_) {
      for (std::vector<Packed>& forms : layer.packed) {
        for (Packed& p : forms)
          f(p, (p.desc.get_size() + kAlignment - 1) / kAlignment * kAlignment);
      }
    }
  };
  each([&](Packed&, size_t bytes) { total += bytes; });
  if (total >= kWorthMoving) {
    const std::shared_ptr<void> room = allocate(total);
    auto* to = static_cast<std::byte*>(room.get());
    each([&](Packed& p, size_t bytes) {
      std::memcpy(to, p.storage.get(), p.desc.get_size());
      p.storage = std::shared_ptr<void>(room, to);
      p.data.set_data_handle(to);  // in every copy of this handle
      to += bytes;
    });
  }
  for (Layer& layer : layers_) layer.source = {};
}

PackedConstants::Packed PackedConstants::make(const MemoryDesc& desc) {
  Packed p{desc, allocate(desc.get_size()), {}};
  p.data = bind(desc, p.storage.get());
  bytes_ += desc.get_size();
  return p;
}

memory PackedConstants::add(std::vector<Packed>& forms, const memory& source,
                            const MemoryDesc& wanted) {
  Packed p = make(wanted);  // not in the list yet, where `source` may be
  reorder(source.get_desc(), source.get_data_handle(), wanted, p.storage.get());
  forms.push_back(std::move(p));
  return forms.back().data;
}

}  // namespace ens::cpu
