// SPDX-License-Identifier: Apache-2.0
#include "attacks/split/decoding.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "nn/core/backend.h"
#include "nn/data/loader.h"
#include "nn/optim/fit.h"

namespace ens {

int64_t held_out_count(int64_t public_images) {
  return std::clamp<int64_t>(public_images / 10, 1, 256);
}

int64_t training_images(const SplitSetting& setting) {
  return setting.public_images - held_out_count(setting.public_images);
}

namespace {

void check_public_images(int64_t count) {
  if (count < 2 * held_out_count(count)) {
    usage_fail("the attacker has only " + std::to_string(count) + " public images",
               "attack.public_images", "give it at least a few hundred");
  }
}

}  // namespace

PublicSplit split_public(const Dataset& data) {
  const int64_t held = held_out_count(data.count());
  check_public_images(data.count());
  std::vector<int64_t> rest(static_cast<size_t>(data.count() - held));
  std::iota(rest.begin(), rest.end(), held);
  return {data.pick(rest), data.head(held)};
}

std::shared_ptr<Decoder> new_decoder(const ServerView& view, const DecoderConfig& settings,
                                     Rng& rng) {
  return std::make_shared<Decoder>(smashed_shape(view.model, view.split), view.model.input_shape(),
                                   DecoderSize{settings.channels(), settings.blocks()}, rng);
}

std::shared_ptr<Decoder> train_decoder(const ServerView& view, const AttackContext& context,
                                       const Dataset& data,
                                       const std::function<Tensor(const Tensor&)>& features,
                                       uint64_t seed, const std::string& label,
                                       const DecoderTraining& how) {
  const DecoderConfig& settings = context.settings.decoder();
  const DecoderLoss loss = parse_decoder_loss(settings.loss());
  Rng rng(seed, "decoder");
  const auto decoder = new_decoder(view, settings, rng);
  if (how.start) decoder->load_state(how.start->state(), label);
  decoder->to(context.device);
  OptimSpec adam;
  adam.kind = OptimSpec::Kind::kAdam;
  Optimizer optimizer(decoder->parameters(), adam);
  LoaderOptions loading;
  loading.batch = std::min<int64_t>(context.settings.batch(), data.count());
  loading.seed = rng.next();
  loading.device = context.device;
  loading.flip = !how.plain;
  loading.crop_padding = how.plain ? 0 : view.model.image_size / 8;
  Loader loader(data, loading);
  FitOptions fitting;
  fitting.label = "the decoder of " + label;
  fitting.epochs = settings.epochs();
  fitting.lr = static_cast<float>(settings.lr());
  fitting.capture = how.capture;
  fit(
      fitting, loader, optimizer,
      [&](const Batch& b) {
        const Tensor images = b.images.to(context.device);
        const Var z(features(images).to(context.device).to(context.dtype));
        const Var fit = decoder_loss(loss, decoder->forward(z), images);
        return how.penalty ? add(fit, how.penalty(*decoder, images)) : fit;
      },
      [&](int64_t images, double value) {
        context.report(images, label + ": decoder, loss " + std::to_string(value).substr(0, 6));
      },
      nullptr);
  decoder->freeze();
  return decoder;
}

Tensor decode(Decoder& decoder, const ServerView& view, const AttackContext& context,
              const Tensor& features) {
  NoGrad no_grad;
  constexpr int64_t kBatch = 128;
  Tensor images = Tensor::empty(batched(features.dim(0), view.model.input_shape()));
  for (int64_t first = 0; first < features.dim(0); first += kBatch) {
    const int64_t n = std::min(kBatch, features.dim(0) - first);
    const Var z(features.rows(first, n).to(context.device).to(context.dtype));
    images.rows(first, n).copy_from(decoder.forward(z).value());
  }
  for (float& pixel : images.span<float>()) pixel = std::clamp(pixel, 0.0f, 1.0f);
  return images;
}

int decoded_candidates(const AttackConfig& settings, int trained) {
  if (settings.candidates() > 0) return std::min(settings.candidates(), trained);
  return settings.tier() == "full" ? trained : 1;
}

std::vector<size_t> best_of(std::span<const double> merits, int keep) {
  std::vector<size_t> order(merits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto rank = [&](size_t i) { return std::isnan(merits[i]) ? -INFINITY : merits[i]; };
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return rank(a) > rank(b); });
  order.resize(std::min(order.size(), static_cast<size_t>(std::max(keep, 0))));
  return order;
}

int64_t queried_pairs(int64_t most, const Shape& feature) {
  constexpr int64_t kMostBytes = int64_t{1} << 29;
  return std::min(most, std::max<int64_t>(kMostBytes / (4 * feature.numel()), 1));
}

std::pair<Tensor, Tensor> query_pairs(const BlackBoxView& view, const AttackContext& context,
                                      int64_t most, const std::string& label) {
  if (!view.query) fail("needs the client's features", label, "use a black-box view");
  constexpr int64_t kBatch = 128;
  const Shape one = smashed_shape(view.model, view.split);
  const int64_t count = queried_pairs(std::min(most, view.public_data->count()), one);
  check_public_images(count);
  const Tensor images = images_of(*view.public_data, 0, count);
  Tensor features = Tensor::empty(batched(count, one));
  for (int64_t first = 0; first < count; first += kBatch) {
    const int64_t n = std::min(kBatch, count - first);
    features.rows(first, n).copy_from(view.query(images.rows(first, n)));
    context.report(n / kQueriesPerImage, label + ": asking for features");
  }
  return {images, features};
}

}  // namespace ens
