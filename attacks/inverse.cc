#include "attacks/inverse.h"

#include "attacks/decoding.h"
#include "nn/core/error.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

class Oracle : public Attack {
 public:
  std::string name() const override { return "oracle"; }
  std::string title() const override { return "oracle decoder (true features)"; }
  KnowledgeLevel level() const override { return KnowledgeLevel::kBlackBox; }

  int64_t work(const AdversaryView& view, const AttackOptions& options) const override {
    return (view.public_data->count() - held_out_count(*view.public_data)) * options.decoder_epochs;
  }

  std::vector<Reconstruction> run(const AdversaryView& view,
                                  const AttackOptions& options) override {
    if (!view.query) fail("the oracle needs the client's features", name(), "use a black-box view");
    const PublicSplit data = split_public(*view.public_data);
    auto decoder = train_decoder(view, options, data.train, view.query, view.seed, name());
    Reconstruction r;
    r.part = "client's features";
    r.images = decode(*decoder, view, view.observed);
    r.own_truth = images_of(data.held_out, 0, data.held_out.count());
    r.own_images = decode(*decoder, view, view.query(r.own_truth));
    return {r};
  }
};

}  // namespace

std::unique_ptr<Attack> oracle_attack() { return std::make_unique<Oracle>(); }

}  // namespace ens
