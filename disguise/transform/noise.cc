// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "base/error.h"
#include "disguise/transform/baselines.h"
#include "disguise/transform/per_image.h"

namespace ens {
namespace {

class Noise : public Transform {
 public:
  Noise(const ImageShape& image, double sigma) : image_(image), sigma_(sigma) {
    if (!(sigma >= 0 && std::isfinite(sigma)))
      usage_fail("the deviation of noise must be a number of 0 or more", "disguise.sigma");
  }
  Shape output_shape() const override { return image_.shape(); }
  Tensor apply(const Tensor& images, FreshRandomness& fresh) const override {
    check_images(images, image_);
    Tensor out = images.clone();
    for_each_image(out, fresh, [&](std::span<float> image, SecretRng& rng) {
      for (float& pixel : image) pixel += static_cast<float>(sigma_ * rng.normal());
    });
    return out;
  }

 private:
  ImageShape image_;
  double sigma_;
};

}  // namespace

std::unique_ptr<Transform> noise_transform(const ImageShape& image, double sigma) {
  return std::make_unique<Noise>(image, sigma);
}

}  // namespace ens
