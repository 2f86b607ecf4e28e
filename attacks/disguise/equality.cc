// SPDX-License-Identifier: Apache-2.0
// Equal blocks of pixels are equal ciphertext: the commonest is background, and the pattern of
// equal blocks of an image tells it from others.
#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "attacks/disguise/registry.h"
#include "attacks/disguise/units.h"

namespace ens {
namespace {

class Equality : public AttackOn<DisguisedView> {
 public:
  std::string name() const override { return "equality"; }
  std::string title() const override { return "equal blocks of ciphertext"; }
  std::string not_applicable_reason(const DisguiseSetting& setting) const override {
    return setting.row == Units(setting.image, setting.disguise).row()
               ? ""
               : "a disguised image " + setting.row.str() + " does not consist of whole units";
  }
  AttackCost cost(const DisguiseSetting&, const AttackConfig&) const override { return {}; }

  std::vector<Reconstruction> run_on(const DisguisedView& view,
                                     const AttackContext& context) override {
    const Units units(view.image, view.disguise);
    const int64_t rows = std::min(view.training_rows, context.settings.observed_features());
    const std::vector<uint64_t> training = units.codes_of_rows(view.rows(0, rows));
    const std::vector<uint64_t> seen = units.codes_of_rows(view.queries);
    std::unordered_map<uint64_t, int64_t> counts;
    for (const uint64_t code : training) ++counts[code];
    int64_t most = 1;
    for (const auto& [code, count] : counts) most = std::max(most, count);

    // Black what is the commonest, white what is met once.
    Reconstruction r;
    r.candidate = "silhouettes";
    r.images = Tensor::empty(batched(view.queries.dim(0), view.image));
    const int64_t h = units.height, w = units.width;
    for (int64_t map = 0; map < r.images.numel() / (h * w); ++map) {
      for (int64_t y = 0; y < h; ++y) {
        for (int64_t x = 0; x < w; ++x) {
          const int64_t unit = map * units.positions() + y / units.unit_height * units.columns() +
                               x / units.unit_width;
          const auto found = counts.find(seen[static_cast<size_t>(unit)]);
          const double count = found == counts.end() ? 1 : static_cast<double>(found->second);
          const double rare =
              most > 1 ? 1 - std::log(count) / std::log(static_cast<double>(most)) : 0.5;
          r.images.data<float>()[(map * h + y) * w + x] = static_cast<float>(rare);
        }
      }
    }
    r.match = [units, seen, common = commonest(units, training)](const Tensor& gallery) {
      return equal_patterns(units, seen, common, units.codes_of_images(gallery));
    };
    return {r};
  }
};

}  // namespace

std::unique_ptr<DisguiseAttack> disguise_equality_attack() { return std::make_unique<Equality>(); }

}  // namespace ens
