// SPDX-License-Identifier: Apache-2.0
#include "offload/core/seal.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <cstring>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/hash.h"
#include "nn/core/rng.h"
#include "offload/core/nonces.h"

namespace ens {
namespace {

constexpr size_t kNonce = 12, kTag = 16;
static_assert(kSealBytes == kNonce + kTag);

template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* p) const {
    kFree(p);
  }
};
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;
using KeyContext = std::unique_ptr<EVP_PKEY_CTX, Free<EVP_PKEY_CTX_free>>;
using Cipher = std::unique_ptr<EVP_CIPHER_CTX, Free<EVP_CIPHER_CTX_free>>;

const uint8_t* bytes(std::span<const std::byte> data) {
  return reinterpret_cast<const uint8_t*>(data.data());
}

Key private_key(const Seed& secret) {
  Key key(EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr, secret.data(), secret.size()));
  if (!key) fail("this OpenSSL does not offer X25519", "sealing");
  return key;
}

Seed derive(const char* direction, const Seed& shared, const ExchangeKey& client,
            const ExchangeKey& server) {
  Hash hash;
  hash.add_text("ensembler offload seal 1");
  hash.add_text(direction);
  hash.add(shared.data(), shared.size());
  hash.add(client.data(), client.size());
  hash.add(server.data(), server.size());
  const std::string digest = hash.finish();
  Seed key;
  std::memcpy(key.data(), digest.data(), key.size());
  return key;
}

}  // namespace

ExchangeKey public_key(const Seed& secret) {
  ExchangeKey out;
  size_t size = out.size();
  if (EVP_PKEY_get_raw_public_key(private_key(secret).get(), out.data(), &size) != 1)
    fail("this OpenSSL does not offer X25519", "sealing");
  return out;
}

SealKeys agree(const Seed& secret, const ExchangeKey& other, const ExchangeKey& client,
               const ExchangeKey& server) {
  const Key own = private_key(secret);
  const Key peer(EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr, other.data(), other.size()));
  const KeyContext context(EVP_PKEY_CTX_new(own.get(), nullptr));
  Seed shared;
  size_t size = shared.size();
  if (!peer || !context || EVP_PKEY_derive_init(context.get()) != 1 ||
      EVP_PKEY_derive_set_peer(context.get(), peer.get()) != 1 ||
      EVP_PKEY_derive(context.get(), shared.data(), &size) != 1) {
    fail("that is no public key", "sealing");
  }
  SealKeys keys{derive("to server", shared, client, server),
                derive("to client", shared, client, server)};
  OPENSSL_cleanse(shared.data(), shared.size());
  return keys;
}

std::vector<std::byte> seal(const Seed& key, std::span<const std::byte> about,
                            std::span<const std::byte> plain) {
  std::vector<std::byte> out(kNonce + plain.size() + kTag);
  const uint64_t random[2] = {secure_random(), secure_random()};
  std::memcpy(out.data(), random, kNonce);
  std::array<uint8_t, sizeof(Seed) + kNonce> used;
  std::memcpy(used.data(), key.data(), key.size());
  std::memcpy(used.data() + key.size(), out.data(), kNonce);
  use_nonce(used);
  auto* to = reinterpret_cast<uint8_t*>(out.data()) + kNonce;
  const Cipher c(EVP_CIPHER_CTX_new());
  int written = 0;
  if (!c ||
      EVP_EncryptInit_ex(c.get(), EVP_aes_256_gcm(), nullptr, key.data(),
                         reinterpret_cast<const uint8_t*>(out.data())) != 1 ||
      EVP_EncryptUpdate(c.get(), nullptr, &written, bytes(about), static_cast<int>(about.size())) !=
          1 ||
      EVP_EncryptUpdate(c.get(), to, &written, bytes(plain), static_cast<int>(plain.size())) != 1 ||
      EVP_EncryptFinal_ex(c.get(), to + written, &written) != 1 ||
      EVP_CIPHER_CTX_ctrl(c.get(), EVP_CTRL_GCM_GET_TAG, kTag, to + plain.size()) != 1) {
    fail("OpenSSL could not encrypt", "sealing");
  }
  return out;
}

bool unseal(const Seed& key, std::span<const std::byte> about, std::span<const std::byte> sealed,
            std::vector<std::byte>& plain) {
  if (sealed.size() < kSealBytes) return false;
  const size_t size = sealed.size() - kSealBytes;
  plain.resize(size);
  const uint8_t* from = bytes(sealed);
  std::array<uint8_t, kTag> tag;
  std::memcpy(tag.data(), from + kNonce + size, kTag);
  const Cipher c(EVP_CIPHER_CTX_new());
  int written = 0;
  const bool good =
      c && EVP_DecryptInit_ex(c.get(), EVP_aes_256_gcm(), nullptr, key.data(), from) == 1 &&
      EVP_DecryptUpdate(c.get(), nullptr, &written, bytes(about), static_cast<int>(about.size())) ==
          1 &&
      EVP_DecryptUpdate(c.get(), reinterpret_cast<uint8_t*>(plain.data()), &written, from + kNonce,
                        static_cast<int>(size)) == 1 &&
      EVP_CIPHER_CTX_ctrl(c.get(), EVP_CTRL_GCM_SET_TAG, kTag, tag.data()) == 1 &&
      EVP_DecryptFinal_ex(c.get(), reinterpret_cast<uint8_t*>(plain.data()) + size, &written) == 1;
  if (!good) plain.clear();
  return good;
}

}  // namespace ens
