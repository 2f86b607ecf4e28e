#include "attacks/split/decoding.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "nn/core/backend.h"
#include "nn/models/decoder.h"
#include "nn/optim/fit.h"

namespace ens {

int64_t held_out_count(int64_t public_images) {
  return std::clamp<int64_t>(public_images / 10, 1, 256);
}

int64_t training_images(const SplitSetting& setting) {
  return setting.public_images - held_out_count(setting.public_images);
}

PublicSplit split_public(const Dataset& data) {
  const int64_t held = held_out_count(data.count());
  if (data.count() < 2 * held) {
    usage_fail("the attacker has only " + std::to_string(data.count()) + " public images",
               "attack.public_images", "give it at least a few hundred");
  }
  std::vector<int64_t> rest(static_cast<size_t>(data.count() - held));
  std::iota(rest.begin(), rest.end(), held);
  return {data.pick(rest), data.head(held)};
}

int decoder_width(const Shape& smashed, const AttackConfig& settings) {
  return static_cast<int>(std::max<int64_t>(settings.decoder().channels(), smashed[0]));
}

std::shared_ptr<Sequential> train_decoder(const ServerView& view, const AttackContext& context,
                                          const Dataset& data,
                                          const std::function<Tensor(const Tensor&)>& features,
                                          uint64_t seed, const std::string& label, bool capture) {
  const Shape smashed = smashed_shape(view.model, view.split);
  Rng rng(seed, "decoder");
  auto decoder = build_decoder(smashed, view.model.input_shape(),
                               decoder_width(smashed, context.settings), rng);
  decoder->to(context.device);
  OptimSpec adam;
  adam.kind = OptimSpec::Kind::kAdam;
  adam.amsgrad = true;
  Optimizer optimizer(decoder->parameters(), adam);
  LoaderOptions loading;
  loading.batch = context.settings.batch();
  loading.seed = rng.next();
  loading.device = context.device;
  Loader loader(data, loading);
  FitOptions fitting;
  fitting.label = "the decoder of " + label;
  fitting.epochs = context.settings.decoder().epochs();
  fitting.lr = static_cast<float>(context.settings.decoder().lr());
  fitting.capture = capture;
  fit(
      fitting, loader, optimizer,
      [&](const Batch& b) {
        const Tensor images = b.images.to(context.device);
        const Var z(features(images).to(context.device).to(context.dtype));
        return mse(decoder->forward(z), Var(images));
      },
      [&](int64_t images, double loss) {
        { context.report(images, label + ": decoder, loss " + std::to_string(loss).substr(0, 6)); }
      },
      nullptr);
  decoder->freeze();
  return decoder;
}

Tensor decode(Sequential& decoder, const ServerView& view, const AttackContext& context,
              const Tensor& features) {
  NoGrad no_grad;
  constexpr int64_t kBatch = 128;
  Shape shape = view.model.input_shape();
  Tensor images = Tensor::empty({features.dim(0), shape[0], shape[1], shape[2]});
  for (int64_t first = 0; first < features.dim(0); first += kBatch) {
    const int64_t n = std::min(kBatch, features.dim(0) - first);
    const Var z(features.rows(first, n).to(context.device).to(context.dtype));
    Tensor part = images.rows(first, n);
    part.copy_from(decoder.forward(z).value());
  }
  return images;
}

}  // namespace ens
