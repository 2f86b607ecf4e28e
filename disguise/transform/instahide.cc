// SPDX-License-Identifier: Apache-2.0
#include "disguise/transform/instahide.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "disguise/transform/per_image.h"

namespace ens {
namespace {

constexpr double kMostWeight = 0.65, kLeastPrivate = 0.3;

void check_pool(const ImageShape& image, const MixingPool& pool, int64_t least, const char* whose) {
  const auto channels = static_cast<size_t>(image.channels);
  const auto finite = [](float v) { return std::isfinite(v); };
  if (pool.images.rank() != 4 || pool.images.dtype() != Dtype::kU8 ||
      !(Shape(pool.images.shape().dims().subspan(1)) == image.shape()) ||
      pool.mean.size() != channels || pool.stddev.size() != channels ||
      !std::ranges::all_of(pool.mean, finite) ||
      !std::ranges::all_of(pool.stddev, [](float v) { return std::isfinite(v) && v > 0; })) {
    fail(std::string("the pool of ") + whose + " images does not fit images of " +
             image.shape().str(),
         "instahide");
  }
  if (pool.images.dim(0) < least) {
    usage_fail("a mixture needs " + std::to_string(least) + " " + whose +
                   " images, and there are " + std::to_string(pool.images.dim(0)),
               "disguise.instahide.k", "mix fewer, or use more images");
  }
}

void check_parameters(const ImageShape& image, const InstahideParameters& p) {
  if (p.k < 2 || (p.cross() && p.k < 3)) {
    usage_fail("a mixture of " + std::to_string(p.k) + " images hides nothing",
               "disguise.instahide.k", p.cross() ? "use 3 or more" : "use 2 or more");
  }
  check_pool(image, p.own, p.cross() ? 2 : p.k, "private");
  if (p.cross()) check_pool(image, p.others, p.k - 2, "public");
}

// values += weight * normalised(image `index` of the pool)
void add_image(const MixingPool& pool, int64_t index, double weight, std::span<float> values) {
  const int64_t size = std::ssize(values), plane = size / std::ssize(pool.mean);
  const uint8_t* pixels = pool.images.data<uint8_t>() + index * size;
  for (int64_t i = 0; i < size; ++i) {
    const auto c = static_cast<size_t>(i / plane);
    values[static_cast<size_t>(i)] +=
        static_cast<float>(weight * (pixels[i] - pool.mean[c]) / pool.stddev[c]);
  }
}

// So many different numbers below n, none of them `without`.
std::vector<int64_t> draw(int64_t count, int64_t n, int64_t without, SecretRng& rng) {
  std::vector<int64_t> drawn;
  while (std::ssize(drawn) < count) {
    const auto next = static_cast<int64_t>(rng.below(static_cast<uint64_t>(n)));
    if (next != without && std::ranges::count(drawn, next) == 0) drawn.push_back(next);
  }
  return drawn;
}

// Adds the other images of a mixture to `values`, which hold the first one with its weight, and
// changes the signs. Calls owned(index, weight) for each of the owner's.
template <typename F>
void mix_in(const InstahideParameters& p, const std::vector<double>& weights, int64_t first,
            std::span<float> values, SecretRng& rng, F owned) {
  const int64_t own = (p.cross() ? 2 : p.k) - 1;
  size_t next = 1;
  for (const int64_t i : draw(own, p.own.images.dim(0), first, rng)) {
    owned(i, weights[next]);
    add_image(p.own, i, weights[next++], values);
  }
  if (p.cross()) {
    for (const int64_t i : draw(p.k - 2, p.others.images.dim(0), -1, rng))
      add_image(p.others, i, weights[next++], values);
  }
  uint64_t signs = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (i % 64 == 0) signs = rng.next();
    if (signs >> (i % 64) & 1) values[i] = -values[i];
  }
}

class Instahide : public Transform {
 public:
  Instahide(const ImageShape& image, const InstahideParameters& parameters)
      : image_(image), p_(parameters) {
    check_parameters(image, p_);
  }

  Shape output_shape() const override { return image_.shape(); }

  Tensor apply(const Tensor& images, FreshRandomness& fresh) const override {
    check_images(images, image_);
    Tensor rows = images.clone();
    const int64_t plane = int64_t{image_.height} * image_.width;
    for (int64_t i = 0; i < rows.numel(); ++i) {
      const auto c = static_cast<size_t>(i / plane % image_.channels);
      float& v = rows.data<float>()[i];
      v = (v - p_.own.mean[c]) / p_.own.stddev[c];
    }
    if (p_.plain) return rows;
    for_each_image(rows, fresh, [&](std::span<float> values, SecretRng& rng) {
      const std::vector<double> weights = instahide_weights(p_.k, p_.cross(), rng);
      for (float& v : values) v *= static_cast<float>(weights[0]);
      mix_in(p_, weights, -1, values, rng, [](int64_t, double) {});
    });
    return rows;
  }

 private:
  const ImageShape image_;
  const InstahideParameters p_;
};

}  // namespace

std::vector<double> instahide_weights(int k, bool cross, SecretRng& rng) {
  std::vector<double> weights(static_cast<size_t>(k));
  while (true) {
    double sum = 0;
    for (double& w : weights) {
      w = std::abs(rng.normal());
      sum += w;
    }
    for (double& w : weights) w /= sum;
    if (std::ranges::max(weights) > kMostWeight) continue;
    if (cross && weights[0] + weights[1] < kLeastPrivate) continue;
    return weights;
  }
}

std::unique_ptr<Transform> instahide_transform(const ImageShape& image,
                                               const InstahideParameters& parameters) {
  return std::make_unique<Instahide>(image, parameters);
}

Encodings instahide_encode(const ImageShape& image, const InstahideParameters& p,
                           const std::vector<int64_t>& first,
                           const std::vector<int32_t>& labels_of_own, int64_t classes,
                           FreshRandomness& fresh) {
  check_parameters(image, p);
  const auto count = std::ssize(first);
  Encodings out{Tensor::zeros(batched(count, image.shape())), Tensor::zeros({count, classes})};
  const float* rows = out.rows.data<float>();
  const int64_t size = image.shape().numel();
  for_each_image(out.rows, fresh, [&](std::span<float> values, SecretRng& rng) {
    const int64_t row = (values.data() - rows) / size, own = first[static_cast<size_t>(row)];
    const auto add_label = [&](int64_t i, double weight) {
      out.labels.data<float>()[row * classes + labels_of_own[static_cast<size_t>(i)]] +=
          static_cast<float>(weight);
    };
    const std::vector<double> weights = instahide_weights(p.k, p.cross(), rng);
    add_label(own, weights[0]);
    add_image(p.own, own, weights[0], values);
    mix_in(p, weights, own, values, rng, add_label);
  });
  return out;
}

}  // namespace ens
