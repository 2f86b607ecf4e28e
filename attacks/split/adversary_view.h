// AdversaryView: everything one attacker may know, and nothing else (spec "What an attacker
// knows").
//
// An attack receives this type only. It holds no true image, no selector and no client weight; the
// Evaluator alone knows the truth. What a level does not grant is absent.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "nn/data/dataset.h"
#include "nn/models/model.h"

namespace ens {

struct AdversaryView {
  // The architecture of the whole classifier and where it is cut.
  ModelSpec model;
  Split split;
  // The N server nets: frozen, evaluation mode. The server holds them all.
  std::vector<std::shared_ptr<Sequential>> bodies;
  // Smashed features [M,C,H,W] float32 as the client sent them: what is to be inverted.
  Tensor observed;
  // Further smashed features [T,C,H,W] float32 that the client sent, of images nobody named: the
  // server keeps everything it receives. Only for attacks that want it (Attack::wants_traffic).
  Tensor traffic;
  // The attacker's own labelled images, of the training data's distribution, disjoint from the
  // private images behind `observed` and `traffic`.
  const Dataset* public_data = nullptr;

  // kKnownPairs: images [m,C,S,S] in [0, 1] and the features the client sent for them.
  Tensor pair_images, pair_features;
  // kBlackBox: the client's features for images of the attacker's choice.
  std::function<Tensor(const Tensor& images)> query;
  // kWhiteBox: the client's head, frozen, and the mean [C,H,W] of what its protection adds to the
  // head's output (undefined: nothing).
  std::shared_ptr<Sequential> head;
  Tensor noise;
  // The client's secret subset, for attacks that ask what its secrecy is worth
  // (Attack::wants_subset); else empty.
  std::vector<int> subset;

  Device device;
  Dtype dtype = Dtype::kF32;
  uint64_t seed = 1;
};

}  // namespace ens
