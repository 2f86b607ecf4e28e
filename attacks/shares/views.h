// SPDX-License-Identifier: Apache-2.0
// What workers of blinded inference may know who pool what they see (docs/offload.md).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "attacks/core/attack.h"
#include "nn/data/dataset.h"
#include "nn/models/model.h"
#include "offload/core/coding.h"

namespace ens {

// How images become the first layer's integers: public, as the whole network is.
struct ImageCoding {
  std::vector<float> mean, stddev;  // of each channel
  float scale = 1;                  // of the normalised value

  Tensor to_integers(const Tensor& images) const;  // [B,C,H,W] in [0, 1] -> kI8
  Tensor to_images(const Tensor& integers) const;  // kI32, the inverse but for rounding
};

// All that could be known of one client's M images. They were coded as G = M / K virtual batches of
// K, rounded up: image k * G + g is input k of batch g.
struct ShareVictim {
  ModelSpec model;
  ImageCoding coding;
  int inputs = 1, noises = 1;        // K and T
  std::optional<LagrangeCode> code;  // of residues; none: the shares are real numbers
  int64_t images = 0;                // M
  // By every worker: its share of the first layer's inputs, [G,C,H,W], residues in kI32 or kF32.
  std::vector<Tensor> recorded;
  std::vector<int> coalition;  // the workers that collude
  const Dataset* public_data = nullptr;
};

struct ShareSetting {
  int64_t public_images = 0;
  int inputs = 1;  // K
  int noises = 1;  // T
  int shares = 1;  // of the coalition
};

// What a coalition has: the whole network, the shares that its members recorded, how they were
// coded, and public images.
struct WorkerView {
  using Victim = ShareVictim;
  using Setting = ShareSetting;
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kWhiteBox;
  ModelSpec model;
  ImageCoding coding;
  int inputs = 1, noises = 1;
  int64_t images = 0;
  std::vector<int> shares;       // which: indices in the code
  std::vector<Tensor> observed;  // as many
  const Dataset* public_data = nullptr;
  std::optional<LagrangeCode> code;
  // Of residues. What the coalition would be sent for images [K * G,C,H,W], residues [G,C,H,W] of
  // each of its shares, with noise from `rng`: the attacker runs the public scheme itself.
  std::function<std::vector<std::vector<uint32_t>>(const Tensor& images, Rng& rng)> encode;
};

// Nothing of a worker that is not in the coalition.
void grant(const ShareVictim& victim, const AttackContext& context, WorkerView& view);

using ShareAttack = AttackOn<WorkerView>;

// One file and one line here each.

// share-ica, share_ica.cc: the images of shares that are real numbers, K + T of them, without the
// matrix: independent components (attacks/shares/separation.h). Which of a virtual batch's images
// a component is it does not know.
std::unique_ptr<ShareAttack> share_ica_attack();
// share-lattice, share_lattice.cc: of residues, more than T of them, without the code: short
// vectors of the lattice that they span are integer mixtures of the images without noise, which
// share-ica separates.
std::unique_ptr<ShareAttack> share_lattice_attack();

// share_decoder.cc.
// The decoder on true features, which are shares here. K + T and more: the equations without noise
// are solved (attacks/shares/equations.h). Fewer: a decoder is trained on the shares of public
// images, with noise of the attacker's own, which is as good as any pairs that it could record; of
// more than T shares on the equations' small solutions.
std::unique_ptr<ShareAttack> share_decoder_attack();
// The same decoder, whatever the number of shares. For a victim that codes without noise: whether
// it reads inputs that are not blinded.
std::unique_ptr<ShareAttack> share_yardstick_attack();
// The same decoder, for a victim whose recorded shares have nothing to do with the images.
std::unique_ptr<ShareAttack> share_floor_attack();

}  // namespace ens
