// SPDX-License-Identifier: Apache-2.0
// The training of a split translation: N networks, each with embeddings, generator and noise of its
// own; then, of Ensembler, one client around P of their frozen bodies.
#pragma once

#include <string>

#include "experiment/run_dir.h"
#include "proto/config.h"
#include "text/train/data.h"

namespace ens {

// Why such a training can never be done; empty if it can. Needs no data.
std::string text_impossible(const RunConfig& config);

// Trains, or goes on with, the run: stage1/netI.h5, stage2/, metrics.csv, edge.h5 (secret),
// cloud.h5, summary.json. A training that was killed at any moment and started again ends in the
// same weights.
void train_text(const RunConfig& config, RunDir& run, const TextData& data);

// How well the next word is told, of whoever has the words before it.
struct NextWordScore {
  double loss = 0;      // mean cross-entropy without smoothing, in nats
  double accuracy = 0;  // 0..1
};
NextWordScore score_next_words(TextNet& net, const TokenPairs& pairs);

}  // namespace ens
