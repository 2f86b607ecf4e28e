// SPDX-License-Identifier: Apache-2.0
// Training a decoder and decoding with it: the half that all inversion attacks share.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "attacks/core/decoder.h"
#include "attacks/split/views.h"

namespace ens {

// The attacker's public images, split once: most to train on, some held out for calibration.
struct PublicSplit {
  Dataset train, held_out;
};
int64_t held_out_count(int64_t public_images);
// How many public images shadows and decoders are trained on: those not held out.
int64_t training_images(const SplitSetting& setting);
PublicSplit split_public(const Dataset& data);

// As attack.decoder says.
std::shared_ptr<Decoder> new_decoder(const ServerView& view, const DecoderConfig& settings,
                                     Rng& rng);

// Trains a decoder of features -> images on `data`, shifted and mirrored at random unless `plain`.
// `features` maps images [B,...] on context.device to features [B,C,H,W], on any device, without
// recording gradients. `capture` as in FitOptions: they ask only context.device for work.
struct DecoderTraining {
  bool capture = false;
  bool plain = false;              // only the images themselves
  const Decoder* start = nullptr;  // whose weights are trained on
  // Added to the loss of a step on `images`, on context.device.
  std::function<Var(Decoder& decoder, const Tensor& images)> penalty;
};
std::shared_ptr<Decoder> train_decoder(const ServerView& view, const AttackContext& context,
                                       const Dataset& data,
                                       const std::function<Tensor(const Tensor& images)>& features,
                                       uint64_t seed, const std::string& label,
                                       const DecoderTraining& how = {});

// decoder(features) in batches -> [M, channels, S, S] float32, clipped to [0, 1], on the CPU.
Tensor decode(Decoder& decoder, const ServerView& view, const AttackContext& context,
              const Tensor& features);

// How many of an attack's `trained` shadows or substitutes get a decoder (attack.candidates).
int decoded_candidates(const AttackConfig& settings, int trained);
// The indices of the `keep` highest merits (all, if there are fewer), the best first. Of equal ones
// the earlier wins; what is not a number comes last.
std::vector<size_t> best_of(std::span<const double> merits, int keep);

// How many queries cost what one image of a decoder's training does: the client's head is small.
inline constexpr int64_t kQueriesPerImage = 16;

// The first public images with the client's features of them, on the CPU: at most `most` pairs, and
// no more than half a GiB of features holds.
int64_t queried_pairs(int64_t most, const Shape& feature);  // [C,H,W]
std::pair<Tensor, Tensor> query_pairs(const BlackBoxView& view, const AttackContext& context,
                                      int64_t most, const std::string& label);

}  // namespace ens
