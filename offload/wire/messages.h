// SPDX-License-Identifier: Apache-2.0
// What worker and trusted side agree on beside proto/offload.proto: version, sizes, and how a layer
// is described.
#pragma once

#include <optional>

#include "nn/core/int8_layer.h"
#include "offload/core/field.h"
#include "proto/offload.pb.h"
#include "proto/status.h"

namespace ens {

constexpr uint32_t kOffloadVersion = 1;
// Of one raw frame, each way.
constexpr int64_t kMaxFrameBytes = int64_t{256} << 20;
// Of one job, over all its planes: seconds of a core, so that one job cannot hold a worker.
constexpr int64_t kMaxJobMultiplications = int64_t{1} << 38;

// None: INTEGERS. Usage Error for a number that this version does not know.
std::optional<Field> field_of(offload::Field field);

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
