// SPDX-License-Identifier: Apache-2.0
// SHA-256 and MD5 of bytes that arrive piece by piece, HMAC and HKDF (OpenSSL).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

struct evp_md_ctx_st;

namespace ens {

// Of one thread. Error if this OpenSSL does not offer the algorithm.
class Hash {
 public:
  enum class Algorithm { kMd5, kSha256 };
  explicit Hash(Algorithm algorithm = Algorithm::kSha256);

  void add(const void* data, size_t size);
  void add_number(uint64_t value) { add(&value, sizeof value); }  // its eight bytes, little-endian
  // The text's length, then the text: no two lists of texts give the same stream.
  void add_text(std::string_view text);
  std::string finish();  // the raw digest: 16 or 32 bytes. No further calls.

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

std::string sha256(const void* data, size_t size);  // the raw digest, 32 bytes

// HMAC-SHA-256 (RFC 2104) of the data under the key: 32 bytes that nobody can tell from random ones
// without the key.
std::array<uint8_t, 32> hmac_sha256(std::span<const uint8_t> key, std::span<const uint8_t> data);

// HKDF-SHA-256 (RFC 5869): `size` bytes, at most 8,160, that nobody can tell from random ones
// without the key; different `info` gives independent ones. An empty salt stands for 32 zeros.
std::vector<uint8_t> hkdf_sha256(std::span<const uint8_t> key, std::span<const uint8_t> salt,
                                 std::string_view info, size_t size);

}  // namespace ens
