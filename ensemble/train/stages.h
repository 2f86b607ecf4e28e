// SPDX-License-Identifier: Apache-2.0
// The trainings that lead from a configuration to what edge and cloud get (see trainer.h).
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "ensemble/model/selector.h"
#include "ensemble/train/context.h"
#include "ensemble/train/nets.h"

namespace ens {

// What a training leaves: everything that both bundles are made of.
struct TrainingResult {
  std::shared_ptr<Sequential> head, tail;
  std::vector<std::shared_ptr<Sequential>> bodies;  // all N
  Selector selector;                                // those whose answers the tail reads
  ProtectionSpec protection;
  double accuracy = 0;               // on the test images, with the protection
  std::optional<double> similarity;  // ensembler: reached maximum of the mean cosine similarity
  std::optional<double> snr;         // shredder: E[a^2] / Var(n)
};

struct Stage1 {
  std::vector<std::shared_ptr<SingleNet>> nets;  // frozen
  std::vector<double> accuracies;                // each with its own protection
};

// stage1.cc: writes the checkpoints of trained nets from imported weights, as from_torchvision()
// names them, one set for each net. Those that are there already are left.
void import_stage1(const TrainingContext& context,
                   const std::vector<std::vector<NamedTensor>>& nets);
// N whole nets in parallel, or a head, N bodies and a tail together.
Stage1 train_stage1(const TrainingContext& context);
TrainingResult train_jointly(const TrainingContext& context);

// Noise N(0, ensemble.sigma^2) of the feature's shape from `rng`, or fresh noise; nothing if sigma
// is 0.
ProtectionSpec draw_noise(const TrainingContext& context, Rng& rng);
double measure_accuracy(const TrainingContext& context, const TrainingResult& trained,
                        const Dataset& data);

}  // namespace ens
