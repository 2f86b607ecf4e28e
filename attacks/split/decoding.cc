#include "attacks/split/decoding.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "nn/core/backend.h"
#include "nn/models/decoder.h"
#include "nn/optim/fit.h"

namespace ens {

int64_t held_out_count(const Dataset& data) {
  return std::clamp<int64_t>(data.count() / 10, 1, 256);
}

PublicSplit split_public(const Dataset& data) {
  const int64_t held = held_out_count(data);
  if (data.count() < 2 * held) {
    usage_fail("the attacker has only " + std::to_string(data.count()) + " public images",
               "attack.public_images", "give it at least a few hundred");
  }
  std::vector<int64_t> rest(static_cast<size_t>(data.count() - held));
  std::iota(rest.begin(), rest.end(), held);
  return {data.pick(rest), data.head(held)};
}

int decoder_width(const Shape& smashed, const AttackOptions& options) {
  return static_cast<int>(std::max<int64_t>(options.decoder_channels, smashed[0]));
}

std::shared_ptr<Sequential> train_decoder(const AdversaryView& view, const AttackOptions& options,
                                          const Dataset& data,
                                          const std::function<Tensor(const Tensor&)>& features,
                                          uint64_t seed, const std::string& label, bool capture) {
  const Shape smashed = smashed_shape(view.model, view.split);
  Rng rng(seed, "decoder");
  auto decoder =
      build_decoder(smashed, view.model.input_shape(), decoder_width(smashed, options), rng);
  decoder->to(view.device);
  OptimSpec adam;
  adam.kind = OptimSpec::Kind::kAdam;
  adam.amsgrad = true;
  Optimizer optimizer(decoder->parameters(), adam);
  LoaderOptions loading;
  loading.batch = options.batch;
  loading.seed = rng.next();
  loading.device = view.device;
  Loader loader(data, loading);
  FitOptions fitting;
  fitting.label = "the decoder of " + label;
  fitting.epochs = options.decoder_epochs;
  fitting.lr = options.lr;
  fitting.capture = capture;
  fit(
      fitting, loader, optimizer,
      [&](const Batch& b) {
        const Tensor images = b.images.to(view.device);
        const Var z(features(images).to(view.device).to(view.dtype));
        return mse(decoder->forward(z), Var(images));
      },
      [&](int64_t images, double loss) {
        if (options.on_progress) {
          options.on_progress(images,
                              label + ": decoder, loss " + std::to_string(loss).substr(0, 6));
        }
      },
      nullptr);
  decoder->freeze();
  return decoder;
}

Tensor decode(Sequential& decoder, const AdversaryView& view, const Tensor& features) {
  NoGrad no_grad;
  constexpr int64_t kBatch = 128;
  Shape shape = view.model.input_shape();
  Tensor images = Tensor::empty({features.dim(0), shape[0], shape[1], shape[2]});
  for (int64_t first = 0; first < features.dim(0); first += kBatch) {
    const int64_t n = std::min(kBatch, features.dim(0) - first);
    const Var z(features.rows(first, n).to(view.device).to(view.dtype));
    Tensor part = images.rows(first, n);
    part.copy_from(decoder.forward(z).value());
  }
  return images;
}

}  // namespace ens
