// SPDX-License-Identifier: Apache-2.0
#include "offload/schemes/secure_stream.h"

#include <openssl/crypto.h>

#include <cstring>
#include <utility>

#include "nn/core/rng.h"
#include "offload/core/nonces.h"

namespace ens {

SecureStream::SecureStream() : key_(secure_seed()), used_(seeds_.size()) {}

SecureStream::~SecureStream() {
  OPENSSL_cleanse(key_.data(), key_.size());
  OPENSSL_cleanse(seeds_.data(), sizeof seeds_);
}

Seed SecureStream::next() {
  if (used_ == seeds_.size()) refill();
  const Seed seed = seeds_[used_];
  OPENSSL_cleanse(seeds_[used_++].data(), sizeof(Seed));
  return seed;
}

// The key is replaced by the stream's first 32 bytes, so that a key makes one stream and later ones
// do not tell of earlier seeds.
void SecureStream::refill() {
  std::array<uint8_t, sizeof(Seed) + sizeof seeds_> bytes;
  use_nonce(key_);
  chacha20(key_, bytes);
  std::memcpy(key_.data(), bytes.data(), sizeof(Seed));
  std::memcpy(seeds_.data(), bytes.data() + sizeof(Seed), sizeof seeds_);
  OPENSSL_cleanse(bytes.data(), bytes.size());
  used_ = 0;
}

}  // namespace ens
