#include "offload/core/seed.h"

#include <openssl/evp.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <vector>

#include "base/error.h"

namespace ens {
namespace {

class KeyStream {
 public:
  explicit KeyStream(const Seed& key) : context_(EVP_CIPHER_CTX_new()) {
    const std::array<uint8_t, 16> start{};  // block counter and nonce
    if (!context_ || EVP_EncryptInit_ex(context_.get(), EVP_chacha20(), nullptr, key.data(),
                                        start.data()) != 1) {
      fail("this OpenSSL does not offer ChaCha20", "random numbers");
    }
  }

  void fill(std::span<uint8_t> out) {
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

 private:
  static constexpr size_t kPiece = size_t{1} << 14;
  struct Free {
    void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
  };
  std::unique_ptr<EVP_CIPHER_CTX, Free> context_;
};

}  // namespace

void chacha20(const Seed& key, std::span<uint8_t> out) { KeyStream(key).fill(out); }

void expand_seed(const Seed& seed, const Field& field, std::span<uint32_t> out) {
  KeyStream stream(seed);
  const uint32_t mask = std::bit_ceil(field.prime()) - 1;
  std::array<uint8_t, 8192> bytes;
  size_t at = bytes.size();
  for (uint32_t& element : out) {
    do {
      if (at == bytes.size()) {
        stream.fill(bytes);
        at = 0;
      }
      const uint8_t* b = &bytes[at];
      element =
          (uint32_t{b[0]} | uint32_t{b[1]} << 8 | uint32_t{b[2]} << 16 | uint32_t{b[3]} << 24) &
          mask;
      at += 4;
    } while (element >= field.prime());
  }
}

}  // namespace ens
