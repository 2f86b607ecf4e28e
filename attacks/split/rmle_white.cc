// Regularised maximum likelihood on the client's own head, its noise subtracted.
#include "attacks/split/registry.h"
#include "attacks/split/rmle.h"
#include "base/error.h"
#include "nn/core/backend.h"

namespace ens {
namespace {

class RmleWhite : public AttackOn<WhiteBoxView> {
 public:
  std::string name() const override { return "rmle-white"; }
  std::string title() const override { return "rMLE on the client's head"; }

  int64_t cost_in_images(const SplitSetting& setting, const AttackConfig& settings) const override {
    return setting.scored_images * settings.rmle().iterations();
  }

  std::vector<Reconstruction> run_on(const WhiteBoxView& view,
                                     const AttackContext& context) override {
    if (!view.head) fail("needs the client's head", name(), "use a white-box view");
    Tensor z = view.observed;
    if (view.noise.defined()) {
      Shape one = z.shape();
      one.set(0, 1);
      z = backend(z.device()).binary(BinaryOp::kSub, z, view.noise.reshape(one));
    }
    const auto features = [&](const Var& images) { return view.head->forward(images); };
    Reconstruction r;
    r.candidate = "client's head";
    r.images = rmle(features, z, view, context, name());
    return {r};
  }
};

}  // namespace

std::unique_ptr<SplitAttack> rmle_white_attack() { return std::make_unique<RmleWhite>(); }

}  // namespace ens
