// The mean of the public images, whatever the client sent: the floor of every table. An attack that
// scores no higher has read nothing from the features.
#include "attacks/split/registry.h"
#include "base/error.h"

namespace ens {
namespace {

class MeanImage : public AttackOn<ServerView> {
 public:
  std::string name() const override { return "mean-image"; }
  std::string title() const override { return "mean public image (floor)"; }
  int64_t cost_in_images(const SplitSetting&, const AttackConfig&) const override { return 0; }

  std::vector<Reconstruction> run_on(const ServerView& view, const AttackContext&) override {
    const Dataset& data = *view.public_data;
    if (data.count() == 0) fail("there are no public images", name(), "set attack.public_images");
    const auto size = static_cast<size_t>(data.image_size());
    std::vector<double> sums(size);
    for (size_t i = 0; i < data.pixels.size(); ++i) sums[i % size] += data.pixels[i];
    Reconstruction r;
    r.candidate = "mean image";
    r.images = Tensor::empty(batched(view.scored_images, view.model.input_shape()));
    float* pixel = r.images.data<float>();
    for (int64_t i = 0; i < r.images.numel(); ++i) {
      pixel[i] = static_cast<float>(sums[static_cast<size_t>(i) % size] /
                                    (255.0 * static_cast<double>(data.count())));
    }
    return {r};
  }
};

}  // namespace

std::unique_ptr<SplitAttack> mean_image_attack() { return std::make_unique<MeanImage>(); }

}  // namespace ens
