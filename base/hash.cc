// SPDX-License-Identifier: Apache-2.0
#include "base/hash.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>

#include "base/error.h"

namespace ens {

void Hash::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Hash::Hash(Algorithm algorithm) : context_(EVP_MD_CTX_new()) {
  const bool md5 = algorithm == Algorithm::kMd5;
  if (!context_ ||
      EVP_DigestInit_ex(context_.get(), md5 ? EVP_md5() : EVP_sha256(), nullptr) != 1) {
    fail(std::string("this OpenSSL does not offer ") + (md5 ? "MD5" : "SHA-256"), "checksum");
  }
}

void Hash::add(const void* data, size_t size) {
  if (EVP_DigestUpdate(context_.get(), data, size) != 1) fail("OpenSSL could not hash", "checksum");
}

void Hash::add_text(std::string_view text) {
  add_number(text.size());
  add(text.data(), text.size());
}

std::string Hash::finish() {
  std::string digest(EVP_MAX_MD_SIZE, '\0');
  unsigned size = 0;
  if (EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(digest.data()), &size) !=
      1) {
    fail("OpenSSL could not hash", "checksum");
  }
  digest.resize(size);
  return digest;
}

std::string sha256(const void* data, size_t size) {
  Hash hash;
  hash.add(data, size);
  return hash.finish();
}

std::array<uint8_t, 32> hmac_sha256(std::span<const uint8_t> key, std::span<const uint8_t> data) {
  std::array<uint8_t, 32> code;
  unsigned size = 0;
  if (!HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), data.data(), data.size(),
            code.data(), &size) ||
      size != code.size()) {
    fail("OpenSSL could not compute an HMAC", "checksum");
  }
  return code;
}

std::vector<uint8_t> hkdf_sha256(std::span<const uint8_t> key, std::span<const uint8_t> salt,
                                 std::string_view info, size_t size) {
  if (size > 255 * 32) fail("HKDF gives at most 8,160 bytes", "key derivation");
  const std::array<uint8_t, 32> zeros{};
  std::array<uint8_t, 32> pseudo_random =
      hmac_sha256(salt.empty() ? std::span<const uint8_t>(zeros) : salt, key);
  std::vector<uint8_t> out, input;
  std::array<uint8_t, 32> block{};
  for (uint8_t counter = 1; out.size() < size; ++counter) {
    input.assign(block.begin(), counter == 1 ? block.begin() : block.end());
    input.insert(input.end(), info.begin(), info.end());
    input.push_back(counter);
    block = hmac_sha256(pseudo_random, input);
    out.insert(out.end(), block.begin(),
               block.begin() + static_cast<ptrdiff_t>(std::min(block.size(), size - out.size())));
  }
  OPENSSL_cleanse(pseudo_random.data(), pseudo_random.size());
  OPENSSL_cleanse(block.data(), block.size());
  OPENSSL_cleanse(input.data(), input.size());
  return out;
}

}  // namespace ens
