// SPDX-License-Identifier: Apache-2.0
// Finds a nonce that is used twice: a key of a stream of masks, or a key and a counter of a cipher.
// Each may be used once, or two secrets cancel. On in debug builds and where a test turns it on.
#pragma once

#include <cstdint>
#include <span>

namespace ens {

// For the whole process, from now on: forgets what was used before.
void watch_nonces(bool on);

// On the trusted side, wherever a secret is made from it. `number`: a counter beside the key. Error
// if it was used before, while watched.
void use_nonce(std::span<const uint8_t> key, uint64_t number = 0);

}  // namespace ens
