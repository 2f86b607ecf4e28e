// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "disguise/transform/baselines.h"
#include "disguise/transform/per_image.h"

namespace ens {
namespace {

class LocalDp : public Transform {
 public:
  LocalDp(const ImageShape& image, int cell, double epsilon)
      : image_(image), cell_(cell), epsilon_(epsilon) {
    if (cell < 1) usage_fail("a cell has at least one pixel", "disguise.dp.cell");
    if (!(epsilon > 0 && std::isfinite(epsilon)))
      usage_fail("epsilon must be a number above 0", "disguise.dp.epsilon");
  }
  Shape output_shape() const override { return image_.shape(); }

  Tensor apply(const Tensor& images, FreshRandomness& fresh) const override {
    check_images(images, image_);
    const auto across = [&](int size) { return (size + cell_ - 1) / cell_; };
    const double scale =
        255.0 * image_.channels * across(image_.height) * across(image_.width) / epsilon_;
    Tensor out = images.clone();
    for_each_image(out, fresh, [&](std::span<float> pixels, SecretRng& rng) {
      for (int c = 0; c < image_.channels; ++c) {
        float* plane = pixels.data() + int64_t{c} * image_.height * image_.width;
        for (int y = 0; y < image_.height; y += cell_) {
          for (int x = 0; x < image_.width; x += cell_)
            noisy_mean(plane, y, x, scale * rng.laplace());
        }
      }
    });
    return out;
  }

 private:
  void noisy_mean(float* plane, int top, int left, double noise) const {
    const int bottom = std::min(top + cell_, image_.height),
              right = std::min(left + cell_, image_.width);
    double sum = 0;
    for (int y = top; y < bottom; ++y) {
      for (int x = left; x < right; ++x) sum += plane[y * image_.width + x];
    }
    const auto value = static_cast<float>(sum / ((bottom - top) * (right - left)) + noise);
    for (int y = top; y < bottom; ++y)
      std::fill(plane + y * image_.width + left, plane + y * image_.width + right, value);
  }

  ImageShape image_;
  int cell_;
  double epsilon_;
};

}  // namespace

std::unique_ptr<Transform> dp_transform(const ImageShape& image, int cell, double epsilon) {
  return std::make_unique<LocalDp>(image, cell, epsilon);
}

}  // namespace ens
