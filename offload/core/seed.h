// A share that is uniform residues can be sent as the 32 bytes that it is computed from.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "offload/core/field.h"

namespace ens {

// A key of ChaCha20, for one purpose.
using Seed = std::array<uint8_t, 32>;

// The stream of ChaCha20 (RFC 8439) under this key, nonce 0, from its start.
void chacha20(const Seed& key, std::span<uint8_t> out);

// Uniform elements of the field, drawn from that stream by rejection: the same on every machine.
void expand_seed(const Seed& seed, const Field& field, std::span<uint32_t> out);

}  // namespace ens
