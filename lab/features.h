// SPDX-License-Identifier: Apache-2.0
// Attacks on features alone, of whatever network and framework: no weights, no run folder.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "nn/core/tensor.h"
#include "nn/data/dataset.h"
#include "proto/config.pb.h"
#include "proto/results.pb.h"

namespace ens {

// Images are square, [channels, S, S] in [0, 1]; features are maps [C, h, h] float32, S being a
// power of two times h.
struct RecordedFeatures {
  Tensor observed;  // [M,C,h,h]: what the client sent, to be inverted
  Tensor truth;     // [M,channels,S,S]: the images behind it, for the scores alone
  // Images whose features the attacker has: pair_features [m,C,h,h]. May be none.
  Dataset pairs;
  Tensor pair_features;
  // The attacker's further images, without features. May be none.
  Dataset public_images;
  // The client's features [B,C,h,h] of images of the attacker's choice; may be empty.
  std::function<Tensor(const Tensor& images)> query;
};

struct FeatureAttack {
  results::AttackResult result;
  Tensor original, reconstruction;  // [M,channels,S,S]; reconstruction undefined without scores
};

// What attack_features() knows, in the order of tables: attacks that need no server nets.
std::vector<std::string> feature_attacks();

// Runs the attacks, each with its seeds, from `seed` on. Those of unlimited queries ask `query`, or
// without it learn from all pairs. An attack that fails or lacks what it needs has the reason in
// its result. Usage Error for shapes that do not fit, elements that are not finite, unknown
// attacks. Throws what the thread's ProgressCapture throws.
std::vector<FeatureAttack> attack_features(const RecordedFeatures& recorded,
                                           const std::vector<std::string>& attacks,
                                           const RunConfig& config);

}  // namespace ens
