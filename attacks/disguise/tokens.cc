// SPDX-License-Identifier: Apache-2.0
#include "attacks/disguise/tokens.h"

#include <algorithm>
#include <cmath>

#include "attacks/disguise/assignment.h"
#include "base/error.h"
#include "base/threads.h"
#include "nn/core/backend.h"
#include "nn/core/rng.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

constexpr int kPatchOfPixels = 4;
constexpr int64_t kMeasured = 1024;  // public images that an encoder's batch norms are measured on

Tensor scaled(const Tensor& images, float scale) {
  Tensor out = images.to(Device{}).plain().clone();
  for (float& v : out.span<float>()) v *= scale;
  return out;
}

Tensor mean_over_images(const Tensor& codes) {
  const int64_t size = codes.dim(1) * codes.dim(2);
  std::vector<double> sum(static_cast<size_t>(size));
  for (int64_t i = 0; i < codes.numel(); ++i)
    sum[static_cast<size_t>(i % size)] += codes.data<float>()[i];
  Tensor mean = Tensor::empty({codes.dim(1), codes.dim(2)});
  for (int64_t i = 0; i < size; ++i) {
    mean.data<float>()[i] =
        static_cast<float>(sum[static_cast<size_t>(i)] / static_cast<double>(codes.dim(0)));
  }
  return mean;
}

// Position i of every image, [B,d].
Tensor at_position(const Tensor& codes, int64_t i) {
  const int64_t n = codes.dim(1), d = codes.dim(2);
  Tensor out = Tensor::empty({codes.dim(0), d});
  for (int64_t b = 0; b < codes.dim(0); ++b) {
    std::copy_n(codes.data<float>() + (b * n + i) * d, d, out.data<float>() + b * d);
  }
  return out;
}

}  // namespace

Tensor squared_distances(const Tensor& a, const Tensor& b) {
  const auto lengths = [](const Tensor& t) {
    std::vector<float> out;
    const int64_t d = t.dim(1);
    for (int64_t i = 0; i < t.dim(0); ++i) {
      double sum = 0;
      for (int64_t k = 0; k < d; ++k) {
        const double v = t.data<float>()[i * d + k];
        sum += v * v;
      }
      out.push_back(static_cast<float>(sum));
    }
    return out;
  };
  const std::vector<float> of_a = lengths(a), of_b = lengths(b);
  Tensor out = Tensor::empty({a.dim(0), b.dim(0)});
  backend(Device{}).gemm(false, true, -2, a, b, 0, out);
  for (int64_t i = 0; i < out.numel(); ++i) {
    float& v = out.data<float>()[i];
    v = std::max(0.0f, v + of_a[static_cast<size_t>(i / b.dim(0))] +
                           of_b[static_cast<size_t>(i % b.dim(0))]);
  }
  return out;
}

Patches::Patches(const Shape& image, const DisguiseConfig& disguise)
    : grid{{static_cast<int>(image[0]), static_cast<int>(image[1]), static_cast<int>(image[2])},
           kPatchOfPixels,
           kPatchOfPixels},
      shuffled(disguise.method() == "neuracrypt") {
  if (shuffled) grid.height = grid.width = disguise.neuracrypt().patch();
}

Tensor Patches::of_images(const Tensor& images) const {
  return to_blocks(images.to(Device{}).plain(), grid)
      .reshape({images.dim(0), count(), grid.block_size()});
}

Tensor Patches::to_images(const Tensor& patches) const {
  const int64_t b = patches.dim(0), c = grid.image.channels, h = grid.image.height,
                w = grid.image.width;
  const Tensor padded =
      from_blocks(patches.reshape({b, count(), c, grid.height, grid.width}), grid);
  Tensor out = Tensor::empty({b, c, h, w});
  for (int64_t line = 0; line < b * c * h; ++line) {
    const float* from =
        padded.data<float>() + (line / h * padded.dim(2) + line % h) * padded.dim(3);
    std::transform(from, from + w, out.data<float>() + line * w,
                   [](float v) { return std::clamp(v, 0.0f, 1.0f); });
  }
  return out;
}

Tensor Patches::codes_of(const Tensor& rows) const {
  return shuffled ? rows.to(Device{}).plain() : of_images(scaled(rows, 1 / 255.0f));
}

std::string no_patches_reason(const Shape& image, const Shape& row,
                              const DisguiseConfig& disguise) {
  const std::string& method = disguise.method();
  if (method != "neuracrypt" && method != "identity" && method != "aesctr") {
    return "other attacks know more of this method than that patches have codes";
  }
  if (method != "neuracrypt" && !(row == image)) {
    return "a disguised image " + row.str() + " does not consist of the image's patches";
  }
  return "";
}

Tensor into_slots(const Tensor& codes, const Tensor& slots) {
  const int64_t b = codes.dim(0), n = codes.dim(1), d = codes.dim(2);
  // |code|^2 is the same for every slot, and so decides nothing.
  const Tensor cost = squared_distances(slots, codes.reshape({b * n, d}));  // [n, B * n]
  Tensor out = Tensor::empty(codes.shape());
  parallel_for(b, 4, [&](int64_t begin, int64_t end) {
    std::vector<double> of_image(static_cast<size_t>(n * n));
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t slot = 0; slot < n; ++slot) {
        const float* from = cost.data<float>() + slot * b * n + i * n;
        std::copy_n(from, n, of_image.data() + slot * n);
      }
      const std::vector<int64_t> code = assign(of_image, n);
      for (int64_t slot = 0; slot < n; ++slot) {
        std::copy_n(codes.data<float>() + (i * n + code[static_cast<size_t>(slot)]) * d, d,
                    out.data<float>() + (i * n + slot) * d);
      }
    }
  });
  return out;
}

Tensor find_slots(const Tensor& codes) {
  Tensor slots = codes.rows(0, 1).reshape({codes.dim(1), codes.dim(2)});
  for (int i = 0; i < 3; ++i) slots = mean_over_images(into_slots(codes, slots));
  return slots;
}

Tensor image_distances(const Tensor& codes) {
  const Tensor flat = codes.reshape({codes.dim(0), codes.dim(1) * codes.dim(2)});
  return squared_distances(flat, flat);
}

Tensor position_distances(const Tensor& codes) {
  const int64_t b = codes.dim(0), n = codes.dim(1);
  Tensor out = Tensor::empty({n, b, b});
  for (int64_t i = 0; i < n; ++i) {
    const Tensor one = at_position(codes, i);
    out.rows(i, 1).copy_from(squared_distances(one, one).reshape({1, b, b}));
  }
  return out;
}

Tensor distances_to(const Tensor& codes, const Tensor& others) {
  const int64_t b = codes.dim(0), n = codes.dim(1), a = others.dim(0);
  Tensor out = Tensor::empty({b, n * a});
  for (int64_t i = 0; i < n; ++i) {
    const Tensor one = squared_distances(at_position(codes, i), at_position(others, i));
    for (int64_t row = 0; row < b; ++row) {
      std::copy_n(one.data<float>() + row * a, a, out.data<float>() + row * n * a + i * a);
    }
  }
  return out;
}

OwnEncoders::OwnEncoders(const Patches& patches, const DisguiseConfig& disguise,
                         const Dataset& public_data, int64_t keys, uint64_t seed)
    : patches_(patches) {
  if (!patches.shuffled) return;
  const NeuracryptConfig& s = disguise.neuracrypt();
  const Tensor images =
      scaled(images_of(public_data, 0, std::min(kMeasured, public_data.count())), 255);
  Rng rng(seed, "own encoders");
  for (int64_t k = 0; k < keys; ++k) {
    NeuracryptParameters p = neuracrypt_form(patches.grid.image, s.patch(), s.width(), s.depth());
    for (const NeuracryptPart& part : random_parts(p)) {
      for (float& v : part.tensor->span<float>()) {
        v = static_cast<float>(part.bound > 0 ? part.bound * (2 * rng.uniform() - 1)
                                              : rng.normal());
      }
    }
    measure_neuracrypt(patches.grid.image, images, p);
    encoders_.push_back(std::move(p));
  }
}

Tensor OwnEncoders::mean(const Tensor& images,
                         const std::function<Tensor(const Tensor& codes)>& distances,
                         const AttackContext& context) const {
  if (encoders_.empty()) return distances(patches_.of_images(images));
  const Tensor pixels = scaled(images, 255);
  Tensor sum;
  for (size_t k = 0; k < encoders_.size(); ++k) {
    const Tensor one = distances(neuracrypt_codes(patches_.grid.image, encoders_[k], pixels));
    if (sum.defined()) {
      backend(Device{}).axpy(1, one, sum);
    } else {
      sum = one;
    }
    context.report(0, "own encoder " + std::to_string(k + 1));
  }
  for (float& v : sum.span<float>()) v /= static_cast<float>(encoders_.size());
  return sum;
}

Tensor OwnEncoders::expected(const Tensor& images, bool by_position,
                             const AttackContext& context) const {
  return mean(images, by_position ? position_distances : image_distances, context);
}

Tensor OwnEncoders::expected_to(const Tensor& images, const Tensor& others,
                                const AttackContext& context) const {
  // One batch, so that one network codes both.
  const int64_t b = images.dim(0), a = others.dim(0);
  Tensor both = Tensor::empty(batched(b + a, Shape(images.shape().dims().subspan(1))));
  both.rows(0, b).copy_from(images);
  both.rows(b, a).copy_from(others);
  return mean(
      both, [=](const Tensor& codes) { return distances_to(codes.rows(0, b), codes.rows(b, a)); },
      context);
}

std::vector<int64_t> place_slots(const Tensor& seen, const Tensor& expected) {
  const int64_t n = seen.dim(0), size = seen.numel() / n;
  const Tensor cost = squared_distances(seen.reshape({n, size}), expected.reshape({n, size}));
  const auto values = cost.span<float>();
  return assign(std::vector<double>(values.begin(), values.end()), n);
}

Tensor in_positions(const Tensor& codes, const std::vector<int64_t>& positions) {
  const int64_t n = codes.dim(1), d = codes.dim(2);
  Tensor out = Tensor::empty(codes.shape());
  for (int64_t i = 0; i < codes.dim(0) * n; ++i) {
    const int64_t to = i / n * n + positions[static_cast<size_t>(i % n)];
    std::copy_n(codes.data<float>() + i * d, d, out.data<float>() + to * d);
  }
  return out;
}

}  // namespace ens
