// SPDX-License-Identifier: Apache-2.0
// Matchings: which original of a gallery does a reconstruction, or a disguised image, belong to?
#pragma once

#include <cstdint>

#include "attacks/core/metrics.h"
#include "nn/core/tensor.h"

namespace ens {

struct MatchingScore {
  int64_t gallery = 0;   // G, the originals to choose from: chance is 1 / G
  Interval rank1;        // the share whose own original comes first
  double cmc5 = 0;       // ... is among the first 5 (cumulative match characteristic)
  double cmc20 = 0;      // ... among the first 20
  double guesswork = 0;  // median of the number of guesses until the right one
};

// similarities: float32 [M, G] on the CPU, higher is likelier, finite; the original of row i is
// column i, so G >= M. Equal similarities are guessed in random order, and what is returned
// counts all orders. `seed`: of the bootstrap.
MatchingScore score_matching(const Tensor& similarities, uint64_t seed);

// Less the squared distance of every image [M,...] to every one of the gallery [G,...]: [M, G].
Tensor pixel_similarity(const Tensor& images, const Tensor& gallery);

}  // namespace ens
