// SPDX-License-Identifier: Apache-2.0
// A codebook from known pairs: ciphertext of a unit -> its pixels. A curve over the number of
// pairs.
#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "attacks/disguise/registry.h"
#include "attacks/disguise/units.h"
#include "base/error.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

// The mean of so many public images at most, [C*H*W].
std::vector<float> mean_of(const Dataset& data) {
  constexpr int64_t kMost = 1000;
  const Tensor images = images_of(data, 0, std::min(kMost, data.count()));
  const int64_t size = data.image_size();
  std::vector<float> mean(static_cast<size_t>(size));
  for (int64_t i = 0; i < images.numel(); ++i) {
    mean[static_cast<size_t>(i % size)] +=
        images.data<float>()[i] / static_cast<float>(images.dim(0));
  }
  return mean;
}

// What units of one image are: the mean value of those that are known, and whether they are.
struct UnitMeans {
  std::vector<float> value;
  std::vector<bool> known;
};

// Gives every unit without a value the mean of its neighbours that have one, from known units
// outwards; false if none is known.
bool spread(const Units& units, UnitMeans& means) {
  std::vector<bool> filled = means.known;
  while (std::ranges::count(filled, false) > 0) {
    const std::vector<bool> before = filled;
    for (int64_t unit = 0; unit < units.positions(); ++unit) {
      if (before[static_cast<size_t>(unit)]) continue;
      float sum = 0;
      int count = 0;
      const int64_t y = unit / units.columns(), x = unit % units.columns();
      const auto add = [&](int64_t row, int64_t column) {
        if (row < 0 || column < 0 || row >= units.rows() || column >= units.columns()) return;
        const auto at = static_cast<size_t>(row * units.columns() + column);
        if (before[at]) sum += means.value[at], ++count;
      };
      add(y - 1, x), add(y + 1, x), add(y, x - 1), add(y, x + 1);
      if (count == 0) continue;
      means.value[static_cast<size_t>(unit)] = sum / static_cast<float>(count);
      filled[static_cast<size_t>(unit)] = true;
    }
    if (filled == before) return false;
  }
  return true;
}

class Codebook : public AttackOn<DisguisedPairsView> {
 public:
  std::string name() const override { return "codebook"; }
  std::string title() const override { return "codebook of known pairs"; }
  std::string not_applicable_reason(const DisguiseSetting& setting) const override {
    return make_disguise_attack("equality")->not_applicable_reason(setting);
  }
  AttackCost cost(const DisguiseSetting&, const AttackConfig&) const override { return {}; }

  std::vector<Reconstruction> run_on(const DisguisedPairsView& view,
                                     const AttackContext& context) override {
    const Units units(view.image, view.disguise);
    const int64_t rows = std::min(view.training_rows, context.settings.observed_features());
    const std::vector<uint64_t> seen = units.codes_of_rows(view.queries);
    const std::vector<uint64_t> common = commonest(units, units.codes_of_rows(view.rows(0, rows)));
    const std::vector<uint64_t> ciphertext = units.codes_of_rows(view.pair_rows);
    const std::vector<uint64_t> plain = units.codes_of_images(view.pair_images);
    const std::vector<float> mean = mean_of(*view.public_data);
    std::unordered_map<uint64_t, size_t> book;  // ciphertext -> index of a unit of the pairs
    std::vector<Reconstruction> curve;
    size_t read = 0;
    for (const int64_t m : disguised_pair_counts(context.settings, view.pair_images.dim(0))) {
      for (; read < static_cast<size_t>(m * units.count()); ++read) {
        book.try_emplace(ciphertext[read], read);
      }
      std::vector<int64_t> found;  // of every unit seen: that of the pairs, -1: none
      std::vector<uint64_t> content;
      for (const uint64_t code : seen) {
        const auto at = book.find(code);
        found.push_back(at == book.end() ? -1 : static_cast<int64_t>(at->second));
        content.push_back(at == book.end() ? 0 : plain[at->second]);
      }
      Reconstruction r;
      r.candidate = fmt::format("m = {}", m);
      r.x = static_cast<double>(m);
      r.block_height = units.unit_height, r.block_width = units.unit_width;
      r.images = Tensor::empty(batched(view.queries.dim(0), view.image));
      r.known = Tensor::zeros(r.images.shape());
      for (int64_t map = 0; map < view.queries.dim(0) * units.channels; ++map) {
        rebuild(units, view.pair_images, mean, found, map, r);
      }
      r.match = [=](const Tensor& gallery) {
        const std::vector<uint64_t> candidates = units.codes_of_images(gallery);
        Tensor out = equal_patterns(units, seen, common, candidates);
        add_hits(units, content, candidates, out);
        return out;
      };
      curve.push_back(std::move(r));
      context.report(0, fmt::format("{} pairs", m));
    }
    return curve;
  }

 private:
  // One channel of one image.
  static void rebuild(const Units& units, const Tensor& pairs, const std::vector<float>& mean,
                      const std::vector<int64_t>& found, int64_t map, Reconstruction& r) {
    const int64_t t = units.positions(), h = units.height, w = units.width;
    const auto pixels_of = [&](int64_t unit, auto&& f) {
      const int64_t top = unit / units.columns() * units.unit_height;
      const int64_t left = unit % units.columns() * units.unit_width;
      for (int64_t y = 0; y < units.unit_height; ++y) {
        for (int64_t x = 0; x < units.unit_width; ++x) {
          f(std::min(h - 1, top + y), std::min(w - 1, left + x), top + y < h && left + x < w, y, x);
        }
      }
    };
    const auto source = [&](int64_t index, int64_t y, int64_t x) {  // of unit `index` of the pairs
      const int64_t unit = index % t;
      const int64_t row = std::min(h - 1, unit / units.columns() * units.unit_height + y);
      const int64_t column = std::min(w - 1, unit % units.columns() * units.unit_width + x);
      return pairs.data<float>()[(index / t * h + row) * w + column];
    };
    float* out = r.images.data<float>() + map * h * w;
    float* known = r.known.data<float>() + map * h * w;
    UnitMeans means{std::vector<float>(static_cast<size_t>(t)),
                    std::vector<bool>(static_cast<size_t>(t))};
    for (int64_t unit = 0; unit < t; ++unit) {
      const int64_t index = found[static_cast<size_t>(map * t + unit)];
      if (index < 0) continue;
      float sum = 0;
      pixels_of(unit, [&](int64_t row, int64_t column, bool inside, int64_t y, int64_t x) {
        const float value = source(index, y, x);
        sum += value;
        if (inside) out[row * w + column] = value, known[row * w + column] = 1;
      });
      means.value[static_cast<size_t>(unit)] =
          sum / static_cast<float>(units.unit_height * units.unit_width);
      means.known[static_cast<size_t>(unit)] = true;
    }
    const bool any = spread(units, means);
    for (int64_t unit = 0; unit < t; ++unit) {
      if (means.known[static_cast<size_t>(unit)]) continue;
      pixels_of(unit, [&](int64_t row, int64_t column, bool, int64_t, int64_t) {
        const auto at = static_cast<size_t>((map % units.channels * h + row) * w + column);
        out[row * w + column] = any ? means.value[static_cast<size_t>(unit)] : mean[at];
      });
    }
  }

  // The units that the codebook holds have to be those of the candidate. [M, G].
  static void add_hits(const Units& units, const std::vector<uint64_t>& content,
                       const std::vector<uint64_t>& candidates, Tensor& similarity) {
    const auto n = static_cast<size_t>(units.count());
    float* to = similarity.data<float>();
    for (size_t i = 0; i < content.size(); i += n) {
      for (size_t j = 0; j < candidates.size(); j += n, ++to) {
        int agreed = 0;
        for (size_t unit = 0; unit < n; ++unit) {
          agreed += content[i + unit] != 0 && content[i + unit] == candidates[j + unit];
        }
        *to += static_cast<float>(agreed);
      }
    }
  }
};

}  // namespace

std::unique_ptr<DisguiseAttack> disguise_codebook_attack() { return std::make_unique<Codebook>(); }

}  // namespace ens
