// SPDX-License-Identifier: Apache-2.0
// From codes to patches by a network that was trained on known pairs. Slots of codes find their
// positions by what distances between images have to become; with few pairs, by their distribution
// over images of which no pair is known.
#include <fmt/format.h>

#include <algorithm>

#include "attacks/disguise/patch_decoder.h"
#include "attacks/disguise/registry.h"
#include "attacks/disguise/tokens.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

constexpr int64_t kRows = 1000;       // of the disguised set, that show where slots are
constexpr int64_t kMostToPlace = 50;  // pairs that decide which position a slot is
constexpr int64_t kUnpaired = 200;    // images whose distances are compared without a pair
constexpr int64_t kKeys = 8;          // encoders of the attacker's own

// [n,B,B] -> the quantiles of each position's distances, [n, B]: what needs no pair.
Tensor quantiles(const Tensor& distances) {
  const int64_t n = distances.dim(0), b = distances.dim(1);
  Tensor out = Tensor::zeros({n, b});
  for (int64_t i = 0; i < n; ++i) {
    std::vector<float> all;
    for (int64_t row = 0; row < b; ++row) {
      const float* from = distances.data<float>() + (i * b + row) * b;
      all.insert(all.end(), from, from + row);
    }
    std::ranges::sort(all);
    for (int64_t k = 0; k < b && !all.empty(); ++k) {
      out.data<float>()[i * b + k] = all[static_cast<size_t>(k * (std::ssize(all) - 1) / b)];
    }
  }
  return out;
}

// [n,A] and [n,B,B], side by side.
Tensor beside(const Tensor& a, const Tensor& b) {
  const int64_t n = a.dim(0), of_a = a.dim(1), of_b = b.numel() / n;
  Tensor out = Tensor::empty({n, of_a + of_b});
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(a.data<float>() + i * of_a, of_a, out.data<float>() + i * (of_a + of_b));
    std::copy_n(b.data<float>() + i * of_b, of_b, out.data<float>() + i * (of_a + of_b) + of_a);
  }
  return out;
}

class Decode : public AttackOn<DisguisedPairsView> {
 public:
  std::string name() const override { return "decode"; }
  std::string title() const override { return "decoder of codes on known pairs"; }
  std::string not_applicable_reason(const DisguiseSetting& setting) const override {
    if (setting.disguise.method() == "neuracrypt" && setting.disguise.neuracrypt().depth() < 0) {
      return "a linear encoder gives codes no positions, so that no picture can be put together";
    }
    return no_patches_reason(setting.image, setting.row, setting.disguise);
  }
  AttackCost cost(const DisguiseSetting&, const AttackConfig&) const override { return {}; }

  std::vector<Reconstruction> run_on(const DisguisedPairsView& view,
                                     const AttackContext& context) override {
    const Patches patches(view.image, view.disguise);
    Tensor pair_codes = patches.codes_of(view.pair_rows);
    Tensor query_codes = patches.codes_of(view.queries);
    const Tensor targets = patches.of_images(view.pair_images);
    std::unique_ptr<OwnEncoders> own;
    Tensor seen_unpaired, expected_unpaired;
    if (patches.shuffled) {
      context.report(0, "finding slots");
      const Tensor rows = patches.codes_of(view.rows(0, std::min(kRows, view.training_rows)));
      const Tensor slots = find_slots(rows);
      pair_codes = into_slots(pair_codes, slots);
      query_codes = into_slots(query_codes, slots);
      own = std::make_unique<OwnEncoders>(patches, view.disguise, *view.public_data, kKeys,
                                          context.seed);
      const int64_t some = std::min({kUnpaired, view.training_rows, view.public_data->count()});
      seen_unpaired = quantiles(position_distances(into_slots(rows.rows(0, some), slots)));
      expected_unpaired =
          quantiles(own->expected(images_of(*view.public_data, 0, some), true, context));
    }
    std::vector<Reconstruction> curve;
    for (const int64_t m : disguised_pair_counts(context.settings, view.pair_images.dim(0))) {
      Tensor codes = pair_codes.rows(0, m), queries = query_codes;
      if (patches.shuffled) {
        const int64_t few = std::min(m, kMostToPlace);
        const std::vector<int64_t> positions = place_slots(
            beside(seen_unpaired, position_distances(codes.rows(0, few))),
            beside(expected_unpaired, own->expected(view.pair_images.rows(0, few), true, context)));
        codes = in_positions(codes, positions);
        queries = in_positions(queries, positions);
      }
      const PatchDecoder decoder(codes, targets.rows(0, m), context);
      Reconstruction r;
      r.candidate = fmt::format("m = {}", m);
      r.x = static_cast<double>(m);
      r.images = patches.to_images(decoder.decode(queries));
      curve.push_back(std::move(r));
      context.report(0, fmt::format("{} pairs", m));
    }
    return curve;
  }
};

}  // namespace

std::unique_ptr<DisguiseAttack> disguise_decode_attack() { return std::make_unique<Decode>(); }

}  // namespace ens
