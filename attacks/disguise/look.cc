// SPDX-License-Identifier: Apache-2.0
// No attack: the disguised image itself is looked at.
#include <algorithm>
#include <cmath>

#include "attacks/disguise/registry.h"
#include "attacks/disguise/units.h"

namespace ens {
namespace {

// [M,C,H',W'] in 0..255 -> [M,C,H,W] in [0, 1]. Units of aes are brought back to their size, pixel
// by pixel; what pads an image to whole blocks is cut off.
Tensor as_image(const Tensor& rows, const Shape& image, const Units& units) {
  const int64_t maps = rows.dim(0) * rows.dim(1), h = rows.dim(2), w = rows.dim(3);
  Tensor out = Tensor::empty(batched(rows.dim(0), image));
  for (int64_t map = 0; map < maps; ++map) {
    const float* from = rows.data<float>() + map * h * w;
    float* to = out.data<float>() + map * image[1] * image[2];
    for (int64_t y = 0; y < image[1]; ++y) {
      for (int64_t x = 0; x < image[2]; ++x) {
        const int64_t row = std::min(h - 1, y * units.row_height / units.unit_height);
        const int64_t column = std::min(w - 1, x * units.row_width / units.unit_width);
        *to++ = std::clamp(from[row * w + column] / 255, 0.0f, 1.0f);
      }
    }
  }
  return out;
}

// Laplace noise on the means of cells: the likelihood of a candidate falls with the sum of the
// absolute differences from its own means. [M, G].
Tensor match_cells(const Tensor& rows, const Tensor& gallery, int64_t cell) {
  const int64_t h = rows.dim(2), w = rows.dim(3), maps = rows.dim(1);
  const auto means = [&](const Tensor& images, float scale) {
    std::vector<float> out;
    for (int64_t map = 0; map < images.dim(0) * maps; ++map) {
      const float* from = images.data<float>() + map * h * w;
      for (int64_t top = 0; top < h; top += cell) {
        for (int64_t left = 0; left < w; left += cell) {
          double sum = 0;
          const int64_t bottom = std::min(h, top + cell), right = std::min(w, left + cell);
          for (int64_t y = top; y < bottom; ++y) {
            for (int64_t x = left; x < right; ++x) sum += from[y * w + x];
          }
          out.push_back(scale * static_cast<float>(
                                    sum / static_cast<double>((bottom - top) * (right - left))));
        }
      }
    }
    return out;
  };
  const std::vector<float> seen = means(rows, 1), plain = means(gallery, 255);
  const int64_t m = rows.dim(0), g = gallery.dim(0), n = std::ssize(seen) / m;
  Tensor out = Tensor::empty({m, g});
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < g; ++j) {
      double difference = 0;
      for (int64_t e = 0; e < n; ++e) {
        difference +=
            std::abs(seen[static_cast<size_t>(i * n + e)] - plain[static_cast<size_t>(j * n + e)]);
      }
      out.data<float>()[i * g + j] = static_cast<float>(-difference);
    }
  }
  return out;
}

// Normalised images whose pixels may have lost their signs, as pixels: mean and deviation are not
// known, and are about those of natural images.
Tensor without_signs(const Tensor& rows) {
  Tensor out = rows.clone();
  for (float& v : out.span<float>()) v = 255 * (0.45f + 0.25f * std::abs(v));
  return out;
}

class Look : public AttackOn<DisguisedView> {
 public:
  std::string name() const override { return "look"; }
  std::string title() const override { return "look at the disguised image"; }
  std::string not_applicable_reason(const DisguiseSetting& setting) const override {
    return setting.row.rank() == 3 ? "" : "codes " + setting.row.str() + " are no picture";
  }
  AttackCost cost(const DisguiseSetting&, const AttackConfig&) const override { return {}; }

  std::vector<Reconstruction> run_on(const DisguisedView& view, const AttackContext&) override {
    Tensor rows = view.queries.to(Device{}).plain();
    if (view.disguise.method() == "instahide") rows = without_signs(rows);
    Reconstruction r;
    r.candidate = "as it is";
    r.images = as_image(rows, view.image, Units(view.image, view.disguise));
    if (view.disguise.method() == "dp") {
      r.match = [rows, cell = view.disguise.dp().cell()](const Tensor& gallery) {
        return match_cells(rows, gallery, cell);
      };
    }
    return {r};
  }
};

}  // namespace

std::unique_ptr<DisguiseAttack> disguise_look_attack() { return std::make_unique<Look>(); }

}  // namespace ens
