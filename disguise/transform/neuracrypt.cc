// SPDX-License-Identifier: Apache-2.0
#include "disguise/transform/neuracrypt.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "disguise/transform/per_image.h"
#include "nn/core/backend.h"

namespace ens {
namespace {

constexpr float kEps = 1e-5f;
constexpr int64_t kBatch = 128;  // images at a time, which bounds the memory

BlockGrid grid_of(const ImageShape& image, int patch) {
  if (patch < 1 || patch > image.height || patch > image.width) {
    usage_fail("a patch of " + std::to_string(patch) + "x" + std::to_string(patch) +
                   " pixels does not fit into images of " + std::to_string(image.height) + "x" +
                   std::to_string(image.width),
               "disguise.neuracrypt.patch", "choose a smaller patch");
  }
  return {image, patch, patch};
}

int64_t depth_of(const NeuracryptParameters& p) {
  return p.hidden_weight.defined() ? p.hidden_weight.dim(0) : 0;
}

// x W^T, for rows x.
Tensor product(const Tensor& x, const Tensor& weight) {
  Tensor y = Tensor::empty({x.dim(0), weight.dim(0)});
  backend(Device{}).gemm(false, true, 1, x, weight, 0, y);
  return y;
}

// y = y * scale + shift of each column, and no less than `least`.
void adjust(Tensor& y, const float* scale, const float* shift, float least) {
  const int64_t d = y.dim(1);
  parallel_for(y.dim(0), 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* to = y.data<float>() + row * d;
      for (int64_t j = 0; j < d; ++j) {
        const float scaled = scale ? to[j] * scale[j] + shift[j] : to[j] + shift[j];
        to[j] = std::max(scaled, least);
      }
    }
  });
}

constexpr float kNoLeast = std::numeric_limits<float>::lowest();

// Batch norm of hidden layer i with its fixed statistics, and ReLU; in place.
void normalise(const NeuracryptParameters& p, int64_t i, Tensor& y) {
  const int64_t d = y.dim(1);
  std::vector<float> scale(static_cast<size_t>(d)), shift(scale.size());
  for (int64_t j = 0; j < d; ++j) {
    const auto at = static_cast<size_t>(j);
    scale[at] = 1 / std::sqrt(p.variance.data<float>()[i * d + j] + kEps);
    shift[at] = -p.mean.data<float>()[i * d + j] * scale[at];
  }
  adjust(y, scale.data(), shift.data(), 0);
}

// Patches [B * n, q] through the first layer and so many hidden ones, the last of them without its
// batch norm.
Tensor through(const NeuracryptParameters& p, const Tensor& patches, int64_t layers) {
  Tensor y = product(patches, p.first_weight);
  const bool linear = !p.last_weight.defined();
  adjust(y, nullptr, p.first_bias.data<float>(), linear ? kNoLeast : 0);
  const int64_t d = y.dim(1);
  for (int64_t i = 0; i < layers; ++i) {
    if (i > 0) normalise(p, i - 1, y);
    y = product(y, p.hidden_weight.rows(i, 1).reshape({d, d}));
    adjust(y, nullptr, p.hidden_bias.data<float>() + i * d, kNoLeast);
  }
  return y;
}

// [B,C,H,W] in 0..255 -> [B * n, q] in [0, 1].
Tensor patches_of(const Tensor& images, const BlockGrid& grid) {
  Tensor patches =
      to_blocks(images, grid).reshape({images.dim(0) * grid.positions(), grid.block_size()});
  for (float& v : patches.span<float>()) v /= 255;
  return patches;
}

// Some images [B,C,H,W] -> codes [B * n, d].
Tensor codes_of(const BlockGrid& grid, const NeuracryptParameters& p, const Tensor& images) {
  const int64_t depth = depth_of(p), n = grid.positions();
  Tensor y = through(p, patches_of(images, grid), depth);
  if (!p.last_weight.defined()) return y;
  if (depth > 0) normalise(p, depth - 1, y);
  const int64_t d = y.dim(1);
  for (int64_t row = 0; row < y.dim(0); ++row) {
    float* to = y.data<float>() + row * d;
    const float* position = p.positions.data<float>() + row % n * d;
    for (int64_t j = 0; j < d; ++j) to[j] = std::max(to[j] + position[j], 0.0f);
  }
  Tensor codes = product(y, p.last_weight);
  adjust(codes, nullptr, p.last_bias.data<float>(), kNoLeast);
  return codes;
}

void check_parameters(const BlockGrid& grid, const NeuracryptParameters& p) {
  const int64_t q = grid.block_size(), n = grid.positions();
  const int64_t d = p.first_weight.defined() ? p.first_weight.dim(0) : 0, depth = depth_of(p);
  const auto is = [](const Tensor& t, const Shape& shape) {
    if (!t.defined() || !(t.shape() == shape) || t.dtype() != Dtype::kF32) return false;
    return std::ranges::all_of(t.span<float>(), [](float v) { return std::isfinite(v); });
  };
  bool fits = d > 0 && is(p.first_weight, {d, q}) && is(p.first_bias, {d});
  if (p.last_weight.defined()) {
    fits = fits && is(p.positions, {n, d}) && is(p.last_weight, {d, d}) && is(p.last_bias, {d});
  } else {
    fits = fits && depth == 0 && !p.positions.defined();
  }
  if (depth > 0) {
    fits = fits && is(p.hidden_weight, {depth, d, d}) && is(p.hidden_bias, {depth, d}) &&
           is(p.mean, {depth, d}) && is(p.variance, {depth, d}) &&
           std::ranges::all_of(p.variance.span<float>(), [](float v) { return v >= 0; });
  }
  if (!fits) {
    fail("the layers do not fit together, or to patches of " + std::to_string(q) + " numbers",
         "neuracrypt");
  }
}

class Neuracrypt : public Transform {
 public:
  Neuracrypt(const ImageShape& image, const NeuracryptParameters& parameters)
      : image_(image), p_(parameters) {
    check_parameters(grid_of(image, p_.patch), p_);
  }

  Shape output_shape() const override {
    return {grid_of(image_, p_.patch).positions(), p_.first_weight.dim(0)};
  }

  Tensor apply(const Tensor& images, FreshRandomness& fresh) const override {
    Tensor codes = neuracrypt_codes(image_, p_, images);
    const int64_t n = codes.dim(1), d = codes.dim(2);
    for_each_image(codes, fresh, [&](std::span<float> values, SecretRng& rng) {
      const std::vector<float> in_order(values.begin(), values.end());
      const std::vector<int64_t> order = rng.permutation(n);
      for (int64_t i = 0; i < n; ++i) {
        std::copy_n(in_order.data() + order[static_cast<size_t>(i)] * d, d, values.data() + i * d);
      }
    });
    return codes;
  }

 private:
  const ImageShape image_;
  const NeuracryptParameters p_;
};

}  // namespace

NeuracryptParameters neuracrypt_form(const ImageShape& image, int patch, int width, int depth) {
  constexpr int64_t kMost = int64_t{1} << 28;
  const BlockGrid grid = grid_of(image, patch);
  const int64_t d = width, q = grid.block_size(), layers = std::max(depth, 0);
  if (d * q > kMost || (depth >= 0 && (layers + 1) * d * d > kMost)) {
    usage_fail("a network of more than 2^28 numbers", "disguise.neuracrypt.width",
               "choose a smaller width or depth");
  }
  NeuracryptParameters p;
  p.patch = patch;
  p.first_weight = Tensor::zeros({d, q});
  p.first_bias = Tensor::zeros({d});
  if (depth < 0) return p;
  if (depth > 0) {
    p.hidden_weight = Tensor::zeros({layers, d, d});
    p.hidden_bias = Tensor::zeros({layers, d});
    p.mean = Tensor::zeros({layers, d});
    p.variance = Tensor::zeros({layers, d});
  }
  p.positions = Tensor::zeros({grid.positions(), d});
  p.last_weight = Tensor::zeros({d, d});
  p.last_bias = Tensor::zeros({d});
  return p;
}

std::vector<NeuracryptPart> random_parts(NeuracryptParameters& p) {
  const double first = 1 / std::sqrt(static_cast<double>(p.first_weight.dim(1))),
               other = 1 / std::sqrt(static_cast<double>(p.first_weight.dim(0)));
  std::vector<NeuracryptPart> parts = {{"first_weight", &p.first_weight, first},
                                       {"first_bias", &p.first_bias, first}};
  if (p.hidden_weight.defined()) {
    parts.push_back({"hidden_weight", &p.hidden_weight, other});
    parts.push_back({"hidden_bias", &p.hidden_bias, other});
  }
  if (p.last_weight.defined()) {
    parts.push_back({"positions", &p.positions, 0});
    parts.push_back({"last_weight", &p.last_weight, other});
    parts.push_back({"last_bias", &p.last_bias, other});
  }
  return parts;
}

void measure_neuracrypt(const ImageShape& image, const Tensor& images, NeuracryptParameters& p) {
  check_images(images, image);
  if (images.dim(0) < 1) fail("no images to measure", "neuracrypt");
  const BlockGrid grid = grid_of(image, p.patch);
  const int64_t d = p.first_weight.dim(0);
  for (int64_t layer = 0; layer < depth_of(p); ++layer) {
    std::vector<double> sum(static_cast<size_t>(d)), square(sum.size());
    for (int64_t first = 0; first < images.dim(0); first += kBatch) {
      const Tensor some = images.rows(first, std::min(kBatch, images.dim(0) - first));
      const Tensor y = through(p, patches_of(some, grid), layer + 1);
      for (int64_t i = 0; i < y.numel(); ++i) {
        const double v = y.data<float>()[i];
        const auto j = static_cast<size_t>(i % d);
        sum[j] += v;
        square[j] += v * v;
      }
    }
    const double count = static_cast<double>(images.dim(0) * grid.positions());
    for (int64_t j = 0; j < d; ++j) {
      const double mean = sum[static_cast<size_t>(j)] / count;
      const double variance = square[static_cast<size_t>(j)] / count - mean * mean;
      p.mean.data<float>()[layer * d + j] = static_cast<float>(mean);
      p.variance.data<float>()[layer * d + j] = static_cast<float>(std::max(0.0, variance));
    }
  }
}

Tensor neuracrypt_codes(const ImageShape& image, const NeuracryptParameters& p,
                        const Tensor& images) {
  check_images(images, image);
  const BlockGrid grid = grid_of(image, p.patch);
  const int64_t n = grid.positions(), d = p.first_weight.dim(0);
  Tensor codes = Tensor::empty({images.dim(0), n, d});
  for (int64_t first = 0; first < images.dim(0); first += kBatch) {
    const int64_t count = std::min(kBatch, images.dim(0) - first);
    codes.rows(first, count)
        .copy_from(codes_of(grid, p, images.rows(first, count)).reshape({count, n, d}));
  }
  return codes;
}

std::unique_ptr<Transform> neuracrypt_transform(const ImageShape& image,
                                                const NeuracryptParameters& parameters) {
  return std::make_unique<Neuracrypt>(image, parameters);
}

}  // namespace ens
