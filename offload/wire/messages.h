// SPDX-License-Identifier: Apache-2.0
// What worker and trusted side agree on beside proto/offload.proto: version, sizes, and how a layer
// is described.
#pragma once

#include <optional>

#include "nn/core/int8_layer.h"
#include "offload/core/scheme.h"
#include "proto/offload.pb.h"
#include "proto/status.h"

namespace ens {

constexpr uint32_t kOffloadVersion = 1;
// Of one raw frame, each way.
constexpr int64_t kMaxFrameBytes = int64_t{256} << 20;
// Of one job, over all its planes: seconds of a core, so that one job cannot hold a worker.
constexpr int64_t kMaxJobMultiplications = int64_t{1} << 38;

// What a share is made of, as it travels.
struct ShareFormat {
  ShareNumbers numbers = ShareNumbers::kIntegers;
  std::optional<Field> field;  // of residues

  int planes() const { return field ? field->planes() : 1; }
  Dtype dtype(bool is_unsigned) const;                                               // of a share
  int64_t element_bytes() const { return numbers == ShareNumbers::kReals ? 4 : 1; }  // of a plane
};
// Usage Error for a number that this version does not know.
ShareFormat format_of(offload::Field field);
offload::Field wire_field(ShareNumbers numbers, int planes);

// The layer's shape, attributes and hash.
offload::Layer describe(const Int8Layer& layer);
// Whether the attributes are possible, before anything is allocated for them. Then the bytes of its
// weights.
Status check_layer(const offload::Layer& layer, int64_t& bytes);
// The elements of one input [C, H, W] or [C] with its zero padding, which products are computed
// from.
int64_t padded_size(const Int8Layer& layer, const Shape& input);
// Multiplications for one plane of one input.
int64_t multiplications(const Int8Layer& layer, const Shape& input);
// The layer of these weights. `described` passed check_layer(), and `weights` has that many bytes.
Int8Layer read_layer(const offload::Layer& described, const void* weights);

}  // namespace ens
