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

enum class KnowledgeLevel { kQueryFree, kBlackBox };
const char* name(KnowledgeLevel level);  // "query-free", "black box"

struct AdversaryView {
  // The architecture of the whole classifier and where it is cut.
  ModelSpec model;
  Split split;
  // The N server nets: frozen, evaluation mode. The server holds them all.
  std::vector<std::shared_ptr<Sequential>> bodies;
  // Smashed features [M,C,H,W] float32 as the client sent them: what is to be inverted.
  Tensor observed;
  // The attacker's own labelled images, of the training data's distribution, disjoint from the
  // private images behind `observed`.
  const Dataset* public_data = nullptr;
  // kBlackBox only, else empty: the client's features for images of the attacker's choice.
  std::function<Tensor(const Tensor& images)> query;

  Device device;
  Dtype dtype = Dtype::kF32;
  uint64_t seed = 1;
};

}  // namespace ens
