// SPDX-License-Identifier: Apache-2.0
#include "disguise/transform/cipher.h"

#include <openssl/evp.h>

#include "base/error.h"

namespace ens {

void AesCipher::Free::operator()(evp_cipher_ctx_st* context) const { EVP_CIPHER_CTX_free(context); }

AesCipher::AesCipher(AesMode mode, std::span<const uint8_t> key, std::span<const uint8_t> start)
    : context_(EVP_CIPHER_CTX_new()) {
  if (key.size() != 16 && key.size() != 32) fail("a key of AES has 16 or 32 bytes here", "aes");
  const bool ctr = mode == AesMode::kCtr;
  if (ctr && start.size() != 16) fail("a counter block has 16 bytes", "aes");
  const EVP_CIPHER* cipher = key.size() == 16 ? (ctr ? EVP_aes_128_ctr() : EVP_aes_128_ecb())
                                              : (ctr ? EVP_aes_256_ctr() : EVP_aes_256_ecb());
  if (!context_ ||
      EVP_EncryptInit_ex(context_.get(), cipher, nullptr, key.data(),
                         ctr ? start.data() : nullptr) != 1 ||
      EVP_CIPHER_CTX_set_padding(context_.get(), 0) != 1) {
    fail("this OpenSSL does not offer AES", "aes");
  }
}

void AesCipher::encrypt(std::span<uint8_t> bytes) {
  int written = 0;
  if (EVP_EncryptUpdate(context_.get(), bytes.data(), &written, bytes.data(),
                        static_cast<int>(bytes.size())) != 1 ||
      written != static_cast<int>(bytes.size())) {
    fail("OpenSSL could not encrypt", "aes");
  }
}

uint8_t as_byte(float pixel) {
  if (!(pixel > 0)) return 0;  // NaN too
  return pixel >= 255 ? 255 : static_cast<uint8_t>(pixel + 0.5f);
}

}  // namespace ens
