// Training a decoder and decoding with it: the half that all inversion attacks share.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "attacks/core/attack.h"
#include "nn/modules/layers.h"

namespace ens {

// The attacker's public images, split once: most to train on, some held out for calibration.
struct PublicSplit {
  Dataset train, held_out;
};
int64_t held_out_count(const Dataset& data);
PublicSplit split_public(const Dataset& data);

// Channels inside a decoder: options.decoder_channels, or as many as the feature has if that is
// more.
int decoder_width(const Shape& smashed, const AttackOptions& options);

// Trains a decoder of features -> images by mean squared error on `data` without augmentation.
// `features` maps images [B,...] on view.device to features [B,C,H,W], on any device, without
// recording gradients. `capture` as in FitOptions: they ask only view.device for work.
std::shared_ptr<Sequential> train_decoder(
    const AdversaryView& view, const AttackOptions& options, const Dataset& data,
    const std::function<Tensor(const Tensor& images)>& features, uint64_t seed,
    const std::string& label, bool capture = false);

// decoder(features) in batches -> [M, channels, S, S] float32 in [0, 1], on the CPU.
Tensor decode(Sequential& decoder, const AdversaryView& view, const Tensor& features);

}  // namespace ens
