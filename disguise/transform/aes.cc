// SPDX-License-Identifier: Apache-2.0
#include "disguise/transform/aes.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "disguise/transform/cipher.h"

namespace ens {
namespace {

constexpr int kSide = 4;  // of an encrypted unit: 4 x 4 bytes are one block of AES
constexpr int64_t kBytes = 16;

std::span<const uint8_t> key_of(const Tensor& keys, int64_t index) {
  return {keys.data<uint8_t>() + index * keys.dim(1), static_cast<size_t>(keys.dim(1))};
}

class AesEcb : public Transform {
 public:
  AesEcb(const ImageShape& image, const AesParameters& parameters)
      : units_{image, parameters.unit_height, parameters.unit_width},
        encrypted_{{image.channels, units_.rows() * kSide, units_.columns() * kSide}, kSide, kSide},
        p_(parameters) {
    const auto divides = [](int side) { return side == 1 || side == 2 || side == 4; };
    if (!divides(p_.unit_height) || !divides(p_.unit_width)) {
      usage_fail("the pixels of an encryption unit cannot be repeated to fill 4 x 4 bytes",
                 "disguise.aes.unit", "use sides of 1, 2 or 4 pixels");
    }
    const int64_t keys = p_.keys == AesKeys::kOne        ? 1
                         : p_.keys == AesKeys::kPosition ? units_.positions()
                                                         : image.channels;
    if (p_.key_bytes.rank() != 2 || p_.key_bytes.dim(0) != keys) {
      fail("there must be " + std::to_string(keys) + " keys", "aes");
    }
    AesCipher(AesMode::kEcb, key_of(p_.key_bytes, 0));  // refuses keys of another size
  }

  Shape output_shape() const override { return encrypted_.image.shape(); }
  bool ciphertext() const override { return true; }

  Tensor apply(const Tensor& images, FreshRandomness&) const override {
    const Tensor blocks = to_blocks(images, units_);
    const int64_t count = blocks.dim(0), t = units_.positions(), channels = units_.image.channels;
    Tensor out = Tensor::empty({count, t, channels, kSide, kSide});
    // A cipher is of one thread.
    const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(compute_threads(), count / 8));
    std::vector<std::vector<AesCipher>> ciphers(static_cast<size_t>(parts));
    for (auto& own : ciphers) {
      for (int64_t k = 0; k < p_.key_bytes.dim(0); ++k)
        own.emplace_back(AesMode::kEcb, key_of(p_.key_bytes, k));
    }
    FirstFailure failure;
    const auto encrypt_part = [&](int64_t part) {
      std::vector<uint8_t> bytes(static_cast<size_t>(t * channels * kBytes));
      for (int64_t b = count * part / parts; b < count * (part + 1) / parts; ++b) {
        repeat(blocks.data<float>() + b * t * units_.block_size(), bytes);
        encrypt(ciphers[static_cast<size_t>(part)], bytes);
        std::ranges::copy(bytes, out.data<float>() + b * static_cast<int64_t>(bytes.size()));
      }
    };
    parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
      failure.guard([&] {
        for (int64_t part = begin; part < end; ++part) encrypt_part(part);
      });
    });
    failure.rethrow();
    return from_blocks(out, encrypted_);
  }

 private:
  // The units of one image, each of its pixels as often as it takes to fill 4 x 4 bytes.
  void repeat(const float* units, std::vector<uint8_t>& bytes) const {
    uint8_t* to = bytes.data();
    const int height = p_.unit_height, width = p_.unit_width;
    for (int64_t unit = 0; unit < units_.positions() * units_.image.channels;
         ++unit, units += height * width) {
      for (int y = 0; y < kSide; ++y) {
        for (int x = 0; x < kSide; ++x)
          *to++ = as_byte(units[y * height / kSide * width + x * width / kSide]);
      }
    }
  }

  void encrypt(std::vector<AesCipher>& ciphers, std::span<uint8_t> image) const {
    if (p_.keys == AesKeys::kOne) return ciphers[0].encrypt(image);
    const size_t channels = static_cast<size_t>(units_.image.channels);
    const size_t run =
        p_.keys == AesKeys::kPosition ? channels * kBytes : kBytes;  // bytes under the same key
    for (size_t i = 0; i * run < image.size(); ++i) {
      ciphers[p_.keys == AesKeys::kPosition ? i : i % channels].encrypt(
          image.subspan(i * run, run));
    }
  }

  BlockGrid units_, encrypted_;
  AesParameters p_;
};

}  // namespace

std::unique_ptr<Transform> aes_transform(const ImageShape& image, const AesParameters& parameters) {
  return std::make_unique<AesEcb>(image, parameters);
}

}  // namespace ens
