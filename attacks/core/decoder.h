// SPDX-License-Identifier: Apache-2.0
// The decoder that ends every inversion attack: from features back to images (He et al., ACSAC
// 2019, section 4.3), as a residual network. What it reads is what the lab says a feature holds, so
// it must be strong: a decoder that learns too little makes every protection look good.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "nn/core/rng.h"
#include "nn/modules/layers.h"

namespace ens {

struct DecoderSize {
  int channels = 64;
  int blocks = 6;  // residual blocks at the map that the features have
};

// features [B,C,h,h] -> images [B,channels,S,S], S a power of two times h; meant for [0, 1], but
// not clipped.
//
// A trainable map is added to the features (it takes off a noise that the client drew once). A
// convolution leads to `blocks` residual blocks of two 3x3 convolutions, then a transposed
// convolution and two more blocks for each doubling of the map up to half the image's size; the
// last transposed convolution, of 6x6 and stride 2, is a 3x3 convolution and a pixel shuffle.
// Features of the image's own size are brought to half of it first, which costs a quarter: a
// position there has room for the pixels it stands for.
class Decoder : public Module {
 public:
  // Usage Error for features that are no map or of a size that does not fit.
  Decoder(const Shape& feature, const Shape& image, const DecoderSize& size, Rng& rng);
  Var forward(const Var& features) override;

 private:
  Var map_;
  std::shared_ptr<Sequential> net_;
};

// What a decoder is trained by. SSIM rewards the structure that a person sees, the squared error
// the colours; kBoth is their sum, the squared error ten times.
enum class DecoderLoss { kMse, kSsim, kBoth };
const char* name(DecoderLoss loss);                       // "mse", "ssim", "both"
DecoderLoss parse_decoder_loss(const std::string& name);  // usage Error for anything else
// Scalar. Images smaller than SSIM's window are compared by the squared error alone.
Var decoder_loss(DecoderLoss loss, const Var& decoded, const Tensor& images);

// A training of a decoder: what it was given, and what came of it.
struct DecoderRound {
  DecoderLoss loss = DecoderLoss::kBoth;
  DecoderSize size;
  int64_t images = 0, epochs = 1;  // different images, and passes over them
  int64_t steps = 0;
  double ssim = 0, psnr = 0;  // means on held-out pairs
  double cpu_seconds = 0;     // of the whole process, meanwhile
};

// The saturation curve of a decoder.
struct Saturation {
  std::vector<DecoderRound> rounds;
  size_t best = 0;         // the round with the highest SSIM
  bool saturated = false;  // doubling training, depth or width gained less than kLeastGain
};
inline constexpr double kLeastGain = 0.01;  // SSIM

// Trains with each loss, then doubles one thing at a time, from the best round so far: the training
// (images while there are more, of `most_images`; then passes over them), the blocks, the channels.
// Ends when none of the three gains kLeastGain. train(round) fills in the results.
Saturation saturate(const DecoderRound& start, int64_t most_images,
                    const std::function<void(DecoderRound&)>& train);

}  // namespace ens
