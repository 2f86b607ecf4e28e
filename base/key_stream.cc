// SPDX-License-Identifier: Apache-2.0
#include "base/key_stream.h"

#include <openssl/evp.h>

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace ens {

void KeyStream::Free::operator()(evp_cipher_ctx_st* context) const { EVP_CIPHER_CTX_free(context); }

KeyStream::KeyStream(const Seed& key) : context_(EVP_CIPHER_CTX_new()) {
  const std::array<uint8_t, 16> start{};  // block counter and nonce
  if (!context_ ||
      EVP_EncryptInit_ex(context_.get(), EVP_chacha20(), nullptr, key.data(), start.data()) != 1) {
    fail("this OpenSSL does not offer ChaCha20", "random numbers");
  }
}

void KeyStream::fill(std::span<uint8_t> out) {
  constexpr size_t kPiece = size_t{1} << 14;
  static const std::vector<uint8_t> zeros(kPiece);
  for (size_t at = 0; at < out.size(); at += kPiece) {
    const size_t size = std::min(kPiece, out.size() - at);
    int written = 0;
    if (EVP_EncryptUpdate(context_.get(), out.data() + at, &written, zeros.data(),
                          static_cast<int>(size)) != 1 ||
        written != static_cast<int>(size)) {
      fail("OpenSSL could not make a key stream", "random numbers");
    }
  }
}

void chacha20(const Seed& key, std::span<uint8_t> out) { KeyStream(key).fill(out); }

}  // namespace ens
