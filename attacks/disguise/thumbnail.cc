// SPDX-License-Identifier: Apache-2.0
// An orthogonal matrix keeps the length of what it turns: the root mean square of every vector of a
// block is there to be read, less the noise's share, and lengths tell candidates apart.
#include <algorithm>
#include <cmath>

#include "attacks/core/matching.h"
#include "attacks/disguise/block_inverse.h"
#include "attacks/disguise/registry.h"

namespace ens {
namespace {

// The root mean square of each vector, [t,B,k,d] -> [t,B,k], of mean square less `variance`.
std::vector<float> lengths(const Tensor& blocks, double variance) {
  const int64_t d = blocks.dim(3), n = blocks.numel() / d;
  std::vector<float> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    const float* v = blocks.data<float>() + i * d;
    double square = 0;
    for (int64_t e = 0; e < d; ++e) square += double{v[e]} * v[e];
    out[static_cast<size_t>(i)] =
        static_cast<float>(std::sqrt(std::max(0.0, square / static_cast<double>(d) - variance)));
  }
  return out;
}

// [t,B,k] by image, [B, t * k]; of permuted blocks in the order of their size, vector by vector.
Tensor by_image(const std::vector<float>& values, int64_t images, int64_t k, bool sorted) {
  const int64_t t = std::ssize(values) / (images * k);
  Tensor out = Tensor::empty({images, k, t});
  for (int64_t b = 0; b < images; ++b) {
    for (int64_t v = 0; v < k; ++v) {
      float* to = out.data<float>() + (b * k + v) * t;
      for (int64_t i = 0; i < t; ++i) to[i] = values[static_cast<size_t>((i * images + b) * k + v)];
      if (sorted) std::sort(to, to + t);
    }
  }
  return out;
}

class Thumbnail : public AttackOn<DisguisedView> {
 public:
  std::string name() const override { return "thumbnail"; }
  std::string title() const override { return "lengths of the blocks' vectors"; }
  std::string not_applicable_reason(const DisguiseSetting& setting) const override {
    if (setting.disguise.method() == "rmt" && setting.disguise.rmt().matrix() != "orthogonal") {
      return "matrices that are not orthogonal keep no lengths";
    }
    return no_blocks_reason(setting.image, setting.row, setting.disguise);
  }
  AttackCost cost(const DisguiseSetting&, const AttackConfig&) const override { return {}; }

  std::vector<Reconstruction> run_on(const DisguisedView& view, const AttackContext&) override {
    const BlockVectors blocks(view.image, view.disguise);
    const BlockNoise noise(view.disguise);
    const bool permuted = view.disguise.method() == "rmt" && view.disguise.rmt().permute();
    Tensor y = blocks.split(view.queries);
    for (float& v : y.span<float>()) v -= static_cast<float>(noise.mean_after);
    const std::vector<float> seen = lengths(y, noise.variance_before + noise.variance_after);
    const int64_t d = y.dim(3), m = y.dim(1), k = y.dim(2);
    for (int64_t i = 0; i < y.numel(); ++i) {
      y.data<float>()[i] = seen[static_cast<size_t>(i / d)] - static_cast<float>(noise.mean_before);
    }
    Reconstruction r;
    r.candidate = "root mean squares";
    r.images = blocks.join(y, 1 / 255.0f);
    r.match = [=](const Tensor& gallery) {
      Tensor x = blocks.split(gallery, 255);
      for (float& v : x.span<float>()) v += static_cast<float>(noise.mean_before);
      return pixel_similarity(by_image(seen, m, k, permuted),
                              by_image(lengths(x, 0), gallery.dim(0), k, permuted));
    };
    return {r};
  }
};

}  // namespace

std::unique_ptr<DisguiseAttack> disguise_thumbnail_attack() {
  return std::make_unique<Thumbnail>();
}

}  // namespace ens
