// SPDX-License-Identifier: Apache-2.0
// Small ensembles with random weights.
#pragma once

#include <filesystem>

#include "ensemble/model/bundle.h"
#include "ensemble/model/edge_bundle.h"
#include "tests/support/temp_dir.h"

namespace ens::test {

struct Bundles {
  CloudBundle cloud;
  EdgeBundle edge;
};

// A ResNet-18 for 16x16 pictures, width 4 unless said, 10 classes; N nets of which `selected` are
// the client's. Batch-norm statistics are random too. The same seed gives the same weights,
// whatever is selected.
Bundles random_bundles(uint64_t seed, int nets = 4, std::vector<int> selected = {1, 3},
                       int width = 4, int tail = 1, int head = 1);

// Writes cloud.h5 and edge.h5; sets the fingerprint.
void write(Bundles& bundles, const std::filesystem::path& folder);

// What the whole ensemble answers, computed by the modules themselves: no plan, no selector's own
// code, no wire. images [B, 3, 16, 16] -> logits [B, 10].
Tensor expected_logits(const Bundles& bundles, const Tensor& images);

Tensor random_images(const ModelSpec& spec, int64_t count, uint64_t seed);

}  // namespace ens::test
