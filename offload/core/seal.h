// SPDX-License-Identifier: Apache-2.0
// Sealed frames between two parties, through hands that neither trusts: X25519 to agree on a key,
// AES-256-GCM for each frame (OpenSSL).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "offload/core/seed.h"

namespace ens {

using ExchangeKey = std::array<uint8_t, 32>;  // X25519, public

// The public key of this secret one.
ExchangeKey public_key(const Seed& secret);

// The keys of a client and a server, who know each other's public key, one for each direction. Both
// get the same: `secret` is one's own, `other` the other's, `client` and `server` both public keys.
// Error for a public key that none has.
struct SealKeys {
  Seed to_server, to_client;
};
SealKeys agree(const Seed& secret, const ExchangeKey& other, const ExchangeKey& client,
               const ExchangeKey& server);

// Nonce, ciphertext, tag. `about` is not sealed, but has to be the same for unseal(): what the
// frame is an answer to, so that no other one passes for it. 2^32 frames under one key at most.
std::vector<std::byte> seal(const Seed& key, std::span<const std::byte> about,
                            std::span<const std::byte> plain);
// False: not sealed with this key and about this, or damaged.
bool unseal(const Seed& key, std::span<const std::byte> about, std::span<const std::byte> sealed,
            std::vector<std::byte>& plain);
inline constexpr size_t kSealBytes = 12 + 16;  // that sealing adds

}  // namespace ens
