// SPDX-License-Identifier: Apache-2.0
// Training what config.protection asks for (arXiv 2401.10859, section 3; spec in docs).
//
// Stage 1 trains N whole nets (N = 1 for the kinds of one net), each with its own initialisation,
// data order and, where the kind has it, noise or dropout of its feature:
//   cross-entropy( M_t^i(M_s^i(P_i(M_h^i(x)))), y )  [+ nopeek's or ressfl's penalty]
// and what follows depends on the kind:
//   ensembler    stage 2 draws P of them in secret, freezes their bodies and trains a fresh head,
//                tail and noise by
//                cross-entropy( M_t(concat_i M_s^i(M_h(x) + g) / P), y )
//                + lambda * max_i CS(M_h(x), M_h^i(x))
//   shredder     stage 2 trains noises for the frozen net (ensemble/protect/noise_bank_train.h)
//   additive     noise is drawn and added
//   random       the head is replaced by an untrained one
//   others       nothing: the one net is the result
// dr_ensemble and channel train a head, N bodies and a tail in one round instead, with the settings
// of stage 1.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "experiment/run_dir.h"
#include "nn/data/dataset.h"
#include "nn/modules/module.h"
#include "proto/config.h"

namespace ens {

// Runs or resumes the training that `config` (completed) describes in `run`. Checkpoints every
// epoch; a run killed at any moment and started again ends in the same weights as an uninterrupted
// one (same machine, same number of threads). Leaves edge.h5, cloud.h5 and summary.json in the
// folder; does not write DONE. `train` and `test` must be what config.data describes.
//
// Accuracies are measured through plans with the protection as the edge applies it: where that
// draws at random, they differ a little from run to run.
//
// `imported`: nets that were trained elsewhere, in place of stage 1's training; one for each of
// ensemble.nets, by nn/models/torchvision.h's state names. Usage Error if protection.kind is
// trained into the net.
void train_ensemble(const RunConfig& config, RunDir& run, const Dataset& train, const Dataset& test,
                    const std::vector<std::vector<NamedTensor>>& imported = {});

// Usage Error if the protection is trained into the nets of stage 1, so that they cannot be
// imported.
void check_importable(const RunConfig& config);

// Everything that determines net i of stage 1, as text, and nothing else: two runs of equal
// identity train the same net i (with as many threads for it). Not in it: N, P, lambda, stage 2,
// the attack, the limit of test images. The split is left out too where nothing happens to the
// feature in training, and the tail always: the same cells are trained, whoever holds them later.
std::string stage1_identity(const RunConfig& config);

// Before training in `run` (a run folder, locked by the caller's RunDir): reuses the nets of stage
// 1 that the finished run `source_run` has and `run` needs, if the two configurations have the same
// stage1_identity and the net has done all its epochs. Files are linked where possible, and
// rewritten where the split differs. Training then finds them finished. Returns the number of
// reused nets; 0 if the source run does not fit or is not finished. Error if it is damaged.
int reuse_stage1(const RunConfig& config, const std::filesystem::path& run,
                 const std::filesystem::path& source_run);

}  // namespace ens
