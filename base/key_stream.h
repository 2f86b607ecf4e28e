// SPDX-License-Identifier: Apache-2.0
// Pseudo-random bytes from ChaCha20 (RFC 8439, OpenSSL), for secrets.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

struct evp_cipher_ctx_st;

namespace ens {

// A key of ChaCha20, for one purpose.
using Seed = std::array<uint8_t, 32>;

// The stream of ChaCha20 under one key, nonce 0, from its start. Of one thread.
class KeyStream {
 public:
  explicit KeyStream(const Seed& key);
  void fill(std::span<uint8_t> out);  // with the next bytes

 private:
  struct Free {
    void operator()(evp_cipher_ctx_st* context) const;
  };
  std::unique_ptr<evp_cipher_ctx_st, Free> context_;
};

void chacha20(const Seed& key, std::span<uint8_t> out);  // the stream's first bytes

}  // namespace ens
