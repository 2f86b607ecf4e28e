// SPDX-License-Identifier: Apache-2.0
// A share that is uniform residues can be sent as the 32 bytes that it is computed from.
#pragma once

#include <cstdint>
#include <span>

#include "base/key_stream.h"
#include "offload/core/field.h"

namespace ens {

// Uniform elements of the field, drawn from the seed's stream by rejection: the same on every
// machine.
void expand_seed(const Seed& seed, const Field& field, std::span<uint32_t> out);

}  // namespace ens
