// An inverse network on the client's own features (He et al., ACSAC 2019, section 4.3), with
// unlimited queries: what a decoder on true features reads.
#include "attacks/split/decoding.h"
#include "attacks/split/registry.h"
#include "base/error.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

class Oracle : public AttackOn<BlackBoxView> {
 public:
  std::string name() const override { return "oracle"; }
  std::string title() const override { return "oracle decoder (true features)"; }

  int64_t cost_in_images(const SplitSetting& setting, const AttackConfig& settings) const override {
    return training_images(setting) * settings.decoder().epochs();
  }

  std::vector<Reconstruction> run_on(const BlackBoxView& view,
                                     const AttackContext& context) override {
    if (!view.query) fail("the oracle needs the client's features", name(), "use a black-box view");
    const PublicSplit data = split_public(*view.public_data);
    auto decoder = train_decoder(view, context, data.train, view.query, context.seed, name());
    Reconstruction r;
    r.candidate = "client's features";
    r.images = decode(*decoder, view, context, view.observed);
    r.calibration_targets = images_of(data.held_out, 0, data.held_out.count());
    r.calibration_images = decode(*decoder, view, context, view.query(r.calibration_targets));
    return {r};
  }
};

}  // namespace

std::unique_ptr<SplitAttack> oracle_attack() { return std::make_unique<Oracle>(); }

}  // namespace ens
