// SPDX-License-Identifier: Apache-2.0
#include "attacks/disguise/block_vectors.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "base/strings.h"

namespace ens {

BlockVectors::BlockVectors(const Shape& image, const DisguiseConfig& disguise)
    : channels(image[0]), height(image[1]), width(image[2]) {
  if (disguise.method() != "rmt") return;
  const RmtConfig& rmt = disguise.rmt();
  const std::vector<std::string> sides = split_text(rmt.block(), 'x');
  block_height = std::stol(sides.at(0)), block_width = std::stol(sides.at(1));
  side = rmt.side() == "full" ? Side::kFull : rmt.side() == "left" ? Side::kLeft : Side::kRight;
}

int64_t BlockVectors::vectors() const {
  switch (side) {
    case Side::kRight:
      return channels * block_height;
    case Side::kLeft:
      return channels * block_width;
    default:
      return 1;
  }
}

int64_t BlockVectors::dims() const { return channels * block_height * block_width / vectors(); }

template <typename F>
void BlockVectors::each(int64_t images, int64_t b, F&& f) const {
  const int64_t k = vectors(), d = dims();
  for (int64_t position = 0; position < positions(); ++position) {
    const int64_t top = position / columns() * block_height;
    const int64_t left = position % columns() * block_width;
    const int64_t start = (position * images + b) * k * d;
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t y = 0; y < block_height; ++y) {
        for (int64_t x = 0; x < block_width; ++x) {
          const int64_t element = side == Side::kLeft ? (c * block_width + x) * block_height + y
                                                      : (c * block_height + y) * block_width + x;
          f(start + element, c, top + y, left + x);
        }
      }
    }
  }
}

Tensor BlockVectors::split(const Tensor& images, float scale) const {
  const Tensor from = images.to(Device{}).plain();
  const int64_t b = from.dim(0), h = from.dim(2), w = from.dim(3);
  const bool fits = (h == height && w == width) || (h == padded()[1] && w == padded()[2]);
  if (from.dim(1) != channels || !fits) {
    fail("rows are " + from.shape().str() + ", and blocks were expected of " + padded().str());
  }
  Tensor out = Tensor::empty({positions(), b, vectors(), dims()});
  for (int64_t i = 0; i < b; ++i) {
    const float* image = from.data<float>() + i * channels * h * w;
    each(b, i, [&](int64_t element, int64_t c, int64_t y, int64_t x) {
      out.data<float>()[element] =
          scale * image[(c * h + std::min(y, h - 1)) * w + std::min(x, w - 1)];
    });
  }
  return out;
}

Tensor BlockVectors::join(const Tensor& blocks, float scale) const {
  const int64_t b = blocks.dim(1);
  Tensor out = Tensor::empty({b, channels, height, width});
  for (int64_t i = 0; i < b; ++i) {
    float* image = out.data<float>() + i * channels * height * width;
    each(b, i, [&](int64_t element, int64_t c, int64_t y, int64_t x) {
      if (y < height && x < width) {
        image[(c * height + y) * width + x] = scale * blocks.data<float>()[element];
      }
    });
  }
  return out;
}

BlockNoise::BlockNoise(const DisguiseConfig& disguise) {
  if (disguise.method() == "noise") {
    variance_after = 255 * 255 * disguise.sigma() * disguise.sigma();
  }
  if (disguise.method() != "rmt") return;
  const RmtConfig& rmt = disguise.rmt();
  const bool before = rmt.noise_place() == "before";
  (before ? mean_before : mean_after) = rmt.noise_law() == "uniform" ? rmt.noise() / 2 : 0;
  (before ? variance_before : variance_after) = rmt.noise() * rmt.noise() / 12;
}

}  // namespace ens
