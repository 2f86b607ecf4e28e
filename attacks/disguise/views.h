// SPDX-License-Identifier: Apache-2.0
// What an attacker on disguised training may know, one type for each level of one ladder
// (docs/disguise.md). No view holds a private image or the key; what each member gets is decided in
// grant.h.
//
// Images are float32 [B,C,H,W] in [0, 1]; disguised rows float32 [B,C',H',W'] in the units of their
// method, which are those of pixels in 0..255.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "attacks/core/attack.h"
#include "nn/data/dataset.h"

namespace ens {

// Everything that could be known of one owner: plain tensors and functions, filled in by the
// scenario. Attacks never see it; grant() takes their view from it.
struct DisguiseVictim {
  DisguiseConfig disguise;  // complete
  Shape image;              // [C,H,W], of one image
  int64_t training_rows = 0;
  // The disguised training set, as the cloud has it: rows [first, first + count).
  std::function<Tensor(int64_t first, int64_t count)> rows;
  Tensor queries;  // [M,C',H',W'], disguised: what is to be inverted
  const Dataset* public_data = nullptr;
  // Images of the owner's among which who is who may be asked, and those disguised: the queries
  // first, then of the other images. Not called unless a view has them.
  std::function<Tensor()> private_images, private_rows;
  // What the owner would send for images: under her key, with randomness drawn anew.
  std::function<Tensor(const Tensor& images)> apply;
  // The same under a key that somebody else made.
  std::function<Tensor(const Tensor& images)> apply_other_key;
  std::shared_ptr<Module> model;  // trained, frozen: rows [B,C',H',W'] -> logits [B,K]
  // Rows with their labels, some of which the model was trained on.
  Tensor candidates;
  std::vector<int32_t> candidate_labels;
};

// What applicability and cost depend on.
struct DisguiseSetting {
  DisguiseConfig disguise;
  Shape image, row;  // of one
  int64_t training_rows = 0, public_images = 0;
};

// L0. The method and its settings are public (Kerckhoffs); only the key is not.
struct DisguisedView {
  using Victim = DisguiseVictim;
  using Setting = DisguiseSetting;
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kDisguisedSet;
  DisguiseConfig disguise;
  Shape image;
  int64_t training_rows = 0;
  std::function<Tensor(int64_t first, int64_t count)> rows;
  Tensor queries;
};

// L1.
struct PublicView : DisguisedView {
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kPublicImages;
  // Of the training data's distribution; none of them is private.
  const Dataset* public_data = nullptr;
};

// L1x: and the private images themselves, not who is who.
struct PrivateImagesView : PublicView {
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kPrivateImages;
  Tensor private_images;  // [G,C,H,W], in an order that says nothing
  Tensor private_rows;    // [G,C',H',W'], what became of them; the queries come first
};

// L1 with the trained model, and the method under a key of the attacker's own.
struct ModelView : PublicView {
  std::shared_ptr<Module> model;
  std::function<Tensor(const Tensor& images)> apply_other_key;
};

// The trained model without its training set: whoever has the set knows who is in it.
struct MembershipView {
  using Victim = DisguiseVictim;
  using Setting = DisguiseSetting;
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kDisguisedSet;
  DisguiseConfig disguise;
  std::shared_ptr<Module> model;
  Tensor candidates;
  std::vector<int32_t> labels;
};

// L2(m).
struct DisguisedPairsView : PublicView {
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kDisguisedPairs;
  Tensor pair_images, pair_rows;  // m of each
};

// The upper bound: pairs without limit.
struct AnyPairsView : PublicView {
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kAnyPairs;
  std::function<Tensor(const Tensor& images)> apply;
};

using DisguiseAttack = AttackAgainst<DisguiseVictim, DisguiseSetting>;

}  // namespace ens
