// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <vector>

#include "base/threads.h"
#include "disguise/transform/aes.h"
#include "disguise/transform/cipher.h"

namespace ens {
namespace {

class AesCtr : public Transform {
 public:
  AesCtr(const ImageShape& image, const Tensor& key) : image_(image), key_(key) {
    const Seed start{};
    AesCipher(AesMode::kCtr, key_.span<uint8_t>(), std::span(start).first(16));  // refuses others
  }
  Shape output_shape() const override { return image_.shape(); }
  bool ciphertext() const override { return true; }

  Tensor apply(const Tensor& images, FreshRandomness& fresh) const override {
    check_images(images, image_);
    Tensor out = Tensor::empty(images.shape());
    const int64_t count = images.dim(0), size = image_.shape().numel();
    std::vector<Seed> nonces(static_cast<size_t>(count));
    for (Seed& nonce : nonces) nonce = fresh.next();
    FirstFailure failure;
    const auto encrypt = [&](int64_t begin, int64_t end) {
      std::vector<uint8_t> bytes(static_cast<size_t>(size));
      for (int64_t b = begin; b < end; ++b) {
        std::transform(images.data<float>() + b * size, images.data<float>() + (b + 1) * size,
                       bytes.begin(), as_byte);
        AesCipher(AesMode::kCtr, key_.span<uint8_t>(),
                  std::span(nonces[static_cast<size_t>(b)]).first(16))
            .encrypt(bytes);
        std::ranges::copy(bytes, out.data<float>() + b * size);
      }
    };
    parallel_for(count, 8,
                 [&](int64_t begin, int64_t end) { failure.guard([&] { encrypt(begin, end); }); });
    failure.rethrow();
    return out;
  }

 private:
  ImageShape image_;
  Tensor key_;
};

}  // namespace

std::unique_ptr<Transform> aesctr_transform(const ImageShape& image, const Tensor& key) {
  return std::make_unique<AesCtr>(image, key);
}

}  // namespace ens
