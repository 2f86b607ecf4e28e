// SPDX-License-Identifier: Apache-2.0
#include "attacks/core/decoder.h"

#include <algorithm>

#include "base/error.h"

namespace ens {
namespace {

// x + conv(relu(conv(x))), nearly the identity at first. Without batch norm, whose noise costs a
// regression accuracy: after one pass over 4,000 images SSIM .82, with it .66.
class ResidualBlock : public Module {
 public:
  ResidualBlock(int64_t channels, Rng& rng) {
    conv1_ =
        add("conv1", std::make_shared<Conv2d>(channels, channels, 3, ConvSpec{1, 1}, true, rng));
    conv2_ =
        add("conv2", std::make_shared<Conv2d>(channels, channels, 3, ConvSpec{1, 1}, true, rng));
    for (const NamedVar& p : conv2_->parameters()) {
      for (float& w : p.var.mutable_value().span<float>()) w *= 0.1f;
    }
  }
  Var forward(const Var& x) override {
    return ens::add(x, conv2_->forward(relu(conv1_->forward(x))));
  }

 private:
  std::shared_ptr<Conv2d> conv1_, conv2_;
};

}  // namespace

Decoder::Decoder(const Shape& feature, const Shape& image, const DecoderSize& size, Rng& rng) {
  if (feature.rank() != 3 || image.rank() != 3 || feature[1] < 1 || image[1] % feature[1] != 0) {
    usage_fail("no decoder from features " + feature.str() + " to images " + image.str(), "decoder",
               "choose a split point whose feature is a map that divides the image");
  }
  const int64_t channels = size.channels;
  map_ = add_parameter("map", Tensor::zeros({1, feature[0], feature[1], feature[2]}));
  net_ = add("net", std::make_shared<Sequential>());
  net_->push(std::make_shared<BatchNorm>(feature[0]));
  int64_t map = feature[1];
  if (map == image[1] && map % 2 == 0) {
    net_->push(std::make_shared<Conv2d>(feature[0], channels, 4, ConvSpec{2, 1}, true, rng));
    map /= 2;
  } else {
    net_->push(std::make_shared<Conv2d>(feature[0], channels, 3, ConvSpec{1, 1}, true, rng));
  }
  const auto blocks = [&](int count) {
    for (int i = 0; i < count; ++i) net_->push(std::make_shared<ResidualBlock>(channels, rng));
  };
  blocks(size.blocks);
  for (; map * 4 <= image[1]; map *= 2) {
    net_->push(
        std::make_shared<ConvTranspose2d>(channels, channels, 4, ConvSpec{2, 1}, 0, true, rng));
    blocks(2);
  }
  if (map * 2 == image[1]) {
    net_->push(
        std::make_shared<ConvTranspose2d>(channels, image[0], 6, ConvSpec{2, 2}, 0, true, rng));
  } else if (map == image[1]) {
    net_->push(std::make_shared<Conv2d>(channels, image[0], 3, ConvSpec{1, 1}, true, rng));
  } else {
    usage_fail("images of " + image.str() + " are not a power of two larger than features " +
                   feature.str(),
               "decoder");
  }
}

Var Decoder::forward(const Var& features) {
  const Var z = ens::add(features, cast(map_, features.value().dtype()));
  return affine(cast(net_->forward(z), Dtype::kF32), 0.25f, 0.5f);
}

const char* name(DecoderLoss loss) {
  switch (loss) {
    case DecoderLoss::kMse:
      return "mse";
    case DecoderLoss::kSsim:
      return "ssim";
    case DecoderLoss::kBoth:
      return "both";
  }
  return "";
}

DecoderLoss parse_decoder_loss(const std::string& wanted) {
  for (DecoderLoss loss : {DecoderLoss::kMse, DecoderLoss::kSsim, DecoderLoss::kBoth}) {
    if (wanted == name(loss)) return loss;
  }
  usage_fail("unknown loss '" + wanted + "'", "attack.decoder.loss", "use mse, ssim or both");
}

Var decoder_loss(DecoderLoss loss, const Var& decoded, const Tensor& images) {
  const Var truth(images);
  if (loss == DecoderLoss::kMse || images.dim(2) < 11 || images.dim(3) < 11) {
    return mse(decoded, truth);
  }
  const Var unlike = affine(ssim(decoded, truth), -1, 1);
  if (loss == DecoderLoss::kSsim) return unlike;
  return add(affine(mse(decoded, truth), 10, 0), unlike);
}

Saturation saturate(const DecoderRound& start, int64_t most_images,
                    const std::function<void(DecoderRound&)>& train) {
  Saturation result;
  const auto try_round = [&](DecoderRound round) {
    train(round);
    result.rounds.push_back(round);
    if (round.ssim > result.rounds[result.best].ssim) result.best = result.rounds.size() - 1;
    return round.ssim;
  };
  for (DecoderLoss loss : {DecoderLoss::kBoth, DecoderLoss::kSsim, DecoderLoss::kMse}) {
    DecoderRound round = start;
    round.loss = loss;
    try_round(round);
  }
  for (bool grew = true; grew;) {
    const DecoderRound from = result.rounds[result.best];
    DecoderRound longer = from, deeper = from, wider = from;
    const int64_t passes = 2 * from.images * from.epochs;
    longer.images = std::min(most_images, 2 * from.images);
    longer.epochs = (passes + longer.images - 1) / longer.images;
    deeper.size.blocks = 2 * std::max(1, from.size.blocks);
    wider.size.channels *= 2;
    grew = false;
    for (const DecoderRound& doubled : {longer, deeper, wider}) {
      if (try_round(doubled) >= from.ssim + kLeastGain) {
        grew = true;
        break;
      }
    }
  }
  result.saturated = true;
  return result;
}

}  // namespace ens
