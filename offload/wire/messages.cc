// SPDX-License-Identifier: Apache-2.0
#include "offload/wire/messages.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "nn/core/int8_product.h"

namespace ens {

Dtype ShareFormat::dtype(bool is_unsigned) const {
  if (numbers == ShareNumbers::kReals) return Dtype::kF32;
  return numbers == ShareNumbers::kIntegers && is_unsigned ? Dtype::kU8 : Dtype::kI8;
}

ShareFormat format_of(offload::Field field) {
  switch (field) {
    case offload::INTEGERS:
      return {};
    case offload::M31:
      return {ShareNumbers::kResidues, Field::named("m31")};
    case offload::P24:
      return {ShareNumbers::kResidues, Field::named("p24")};
    case offload::REALS:
      return {ShareNumbers::kReals, std::nullopt};
    default:
      usage_fail("field " + std::to_string(field) + " is not known to this version", "job");
  }
}

offload::Field wire_field(ShareNumbers numbers, int planes) {
  if (numbers == ShareNumbers::kReals) return offload::REALS;
  if (numbers == ShareNumbers::kIntegers) return offload::INTEGERS;
  return planes == 4 ? offload::M31 : offload::P24;
}

offload::Layer describe(const Int8Layer& layer) {
  const bool conv = layer.weight.rank() == 4;
  offload::Layer out;
  for (const int64_t size : layer.weight.shape().dims()) out.add_shape(size);
  const ConvSpec spec = conv ? layer.conv : ConvSpec{};
  out.set_stride(static_cast<uint32_t>(spec.stride));
  out.set_padding(static_cast<uint32_t>(spec.padding));
  out.set_dilation(static_cast<uint32_t>(spec.dilation));
  out.set_groups(static_cast<uint32_t>(spec.groups));
  Hash hash;
  hash.add_number(static_cast<uint64_t>(layer.weight.rank()));
  for (const int64_t size : out.shape()) hash.add_number(static_cast<uint64_t>(size));
  for (const uint32_t v : {out.stride(), out.padding(), out.dilation(), out.groups()})
    hash.add_number(v);
  hash.add(layer.weight.host(), layer.weight.bytes());
  out.set_hash(hash.finish());
  return out;
}

Status check_layer(const offload::Layer& layer, int64_t& bytes) {
  const auto refuse = [](const char* why) {
    return Status{StatusCode::kInvalidArgument, std::string("the layer's ") + why};
  };
  if (layer.hash().size() != 32) return refuse("hash has not 32 bytes");
  const int rank = layer.shape_size();
  if (rank != 2 && rank != 4) return refuse("weights have neither two nor four axes");
  bytes = 1;
  for (const int64_t size : layer.shape()) {
    if (size < 1 || size > kMaxFrameBytes / bytes) return refuse("weights are empty or too large");
    bytes *= size;
  }
  constexpr uint32_t kMost = 32767;
  if (layer.stride() < 1 || layer.stride() > kMost || layer.padding() > kMost ||
      layer.dilation() < 1 || layer.dilation() > kMost || layer.groups() < 1 ||
      layer.shape(0) % layer.groups() != 0) {
    return refuse("stride, padding, dilation or groups are impossible");
  }
  const int64_t kernel = rank == 4 ? std::max(layer.shape(2), layer.shape(3)) : 1;
  if (layer.padding() > layer.dilation() * (kernel - 1))
    return refuse("padding exceeds its kernel");
  if (bytes / layer.shape(0) > kMaxTermsU8) return refuse("sums may exceed int32");
  return {};
}

int64_t padded_size(const Int8Layer& layer, const Shape& input) {
  if (layer.weight.rank() == 2) return input.numel();
  const int64_t border = 2 * int64_t{layer.conv.padding};
  return input[0] * (input[1] + border) * (input[2] + border);
}

int64_t multiplications(const Int8Layer& layer, const Shape& input) {
  return output_shape(layer, input).numel() * (layer.weight.numel() / layer.weight.dim(0));
}

Int8Layer read_layer(const offload::Layer& described, const void* weights) {
  const std::vector<int64_t> sizes(described.shape().begin(), described.shape().end());
  Int8Layer layer{Tensor::empty(Shape(sizes), Dtype::kI8),
                  {.stride = static_cast<int>(described.stride()),
                   .padding = static_cast<int>(described.padding()),
                   .dilation = static_cast<int>(described.dilation()),
                   .groups = static_cast<int>(described.groups())}};
  std::memcpy(layer.weight.host(), weights, layer.weight.bytes());
  return layer;
}

}  // namespace ens
