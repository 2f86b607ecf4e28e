// Training an ensemble: stage 1, stage 2, bundles (arXiv 2401.10859, section 3; spec in docs).
//
// Stage 1 trains N whole nets, each with its own fixed noise, initialisation and data order:
//   cross-entropy( M_t^i(M_s^i(M_h^i(x) + g_i)), y )
// Stage 2 draws P of them in secret, freezes their bodies and trains a fresh head, tail and noise:
//   cross-entropy( M_t(concat_i M_s^i(M_h(x) + g) / P), y ) + lambda * max_i CS(M_h(x), M_h^i(x))
// With N = 1 there is no stage 2: the one net is the result ("none" without noise, "single" with).
#pragma once

#include "ensemble/train/run_dir.h"
#include "nn/data/dataset.h"
#include "proto/config.h"

namespace ens {

// Runs or resumes the training that `config` (completed) describes in `run`. Checkpoints every
// epoch; a run killed at any moment and started again ends in the same weights as an uninterrupted
// one (same machine, same number of threads). Leaves edge.h5, cloud.h5 and summary.json in the
// folder; does not write DONE. `train` and `test` must be what config.data describes.
void train_ensemble(const RunConfig& config, RunDir& run, const Dataset& train,
                    const Dataset& test);

}  // namespace ens
