// SPDX-License-Identifier: Apache-2.0
// Disguised images as codes of patches, one a patch, in an order that nobody told (NeuraCrypt), and
// what can be found out about that order. Other methods whose images keep their size are looked at
// as if the pixels of a patch were its code, in their own order.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "attacks/core/attack.h"
#include "disguise/transform/neuracrypt.h"
#include "nn/data/dataset.h"
#include "proto/config.pb.h"

namespace ens {

// How an image is cut: n patches of q elements (channels, rows, columns), row by row.
struct Patches {
  BlockGrid grid;
  bool shuffled = false;  // the codes come in no order

  // `image`: [C,H,W].
  Patches(const Shape& image, const DisguiseConfig& disguise);
  int64_t count() const { return grid.positions(); }

  Tensor of_images(const Tensor& images) const;   // [B,C,H,W] in [0, 1] -> [B,n,q]
  Tensor to_images(const Tensor& patches) const;  // the inverse, clipped; without the padding
  Tensor codes_of(const Tensor& rows) const;      // disguised rows -> [B,n,d]
};
// "", or why the rows are no codes of patches.
std::string no_patches_reason(const Shape& image, const Shape& row, const DisguiseConfig& disguise);

// What the codes of a position have in common stands out from what they say of their patch: all
// images' codes are assigned to one image's by squared distance, then twice to their means. [B,n,d]
// -> those means, [n,d]: the slots. Which slot is which position is another question.
Tensor find_slots(const Tensor& codes);
// Every image's codes, each in its slot: [B,n,d] -> the same shape.
Tensor into_slots(const Tensor& codes, const Tensor& slots);

// Between the rows of a [A,D] and b [B,D]: [A,B].
Tensor squared_distances(const Tensor& a, const Tensor& b);
// Squared distances between the images of [B,n,d], over all n: [B,B]. Position by position:
// [n,B,B].
Tensor image_distances(const Tensor& codes);
Tensor position_distances(const Tensor& codes);
// From each image of [B,n,d] to each of [A,n,d], position by position: [B, n * A].
Tensor distances_to(const Tensor& codes, const Tensor& others);

// A wide random network keeps distances, but for a function that depends on its form alone (Cho and
// Saul, NeurIPS 2009): the attacker's own networks of this form say what a distance becomes.
class OwnEncoders {
 public:
  // `keys` networks, their batch norms measured on public images; none for codes that are pixels.
  OwnEncoders(const Patches& patches, const DisguiseConfig& disguise, const Dataset& public_data,
              int64_t keys, uint64_t seed);
  // The mean over the networks of image_distances() or position_distances() of their codes of
  // images [B,C,H,W] in [0, 1].
  Tensor expected(const Tensor& images, bool by_position, const AttackContext& context) const;
  // Of distances_to().
  Tensor expected_to(const Tensor& images, const Tensor& others,
                     const AttackContext& context) const;

 private:
  // The mean of `distances` of the networks' codes of the images.
  Tensor mean(const Tensor& images, const std::function<Tensor(const Tensor& codes)>& distances,
              const AttackContext& context) const;

  const Patches patches_;
  std::vector<NeuracryptParameters> encoders_;
};

// Which position is each slot? `seen` [n,..] of the slots and `expected` [n,..] of the positions
// are numbers in one unit, in one order: the assignment with the least squared difference. For each
// slot its position.
std::vector<int64_t> place_slots(const Tensor& seen, const Tensor& expected);
// [B,n,d] in slots -> in the order of the positions.
Tensor in_positions(const Tensor& codes, const std::vector<int64_t>& positions);

}  // namespace ens
