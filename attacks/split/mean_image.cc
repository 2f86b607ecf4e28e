// SPDX-License-Identifier: Apache-2.0
// The mean of the public images, whatever the client sent: the floor of every table. An attack that
// scores no higher has read nothing from the features.
#include "attacks/split/mean_image.h"

#include <algorithm>

#include "attacks/split/registry.h"
#include "base/error.h"

namespace ens {
namespace {

class MeanImage : public AttackOn<ServerView> {
 public:
  std::string name() const override { return "mean-image"; }
  std::string title() const override { return "mean public image (floor)"; }
  AttackCost cost(const SplitSetting&, const AttackConfig&) const override { return {}; }

  std::vector<Reconstruction> run_on(const ServerView& view, const AttackContext&) override {
    Reconstruction r;
    r.candidate = "mean image";
    r.images = Tensor::empty(batched(view.scored_images, view.model.input_shape()));
    const std::vector<float> mean = mean_image(*view.public_data);
    for (int64_t i = 0; i < view.scored_images; ++i) {
      std::ranges::copy(mean, r.images.rows(i, 1).data<float>());
    }
    return {r};
  }
};

}  // namespace

std::vector<float> mean_image(const Dataset& data, std::optional<int32_t> label) {
  if (data.count() == 0) fail("there are no public images", "mean", "set attack.public_images");
  if (label && std::ranges::find(data.labels, *label) == data.labels.end()) label.reset();
  const auto size = static_cast<size_t>(data.image_size());
  std::vector<double> sums(size);
  int64_t count = 0;
  for (size_t i = 0; i < data.labels.size(); ++i) {
    if (label && data.labels[i] != *label) continue;
    ++count;
    for (size_t p = 0; p < size; ++p) sums[p] += data.pixels[i * size + p];
  }
  std::vector<float> mean(size);
  std::ranges::transform(sums, mean.begin(), [&](double sum) {
    return static_cast<float>(sum / (255.0 * static_cast<double>(count)));
  });
  return mean;
}

std::unique_ptr<SplitAttack> mean_image_attack() { return std::make_unique<MeanImage>(); }

}  // namespace ens
