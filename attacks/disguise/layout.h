// SPDX-License-Identifier: Apache-2.0
// Where did the blocks of `rmt` go? From public images and disguised rows, without a pair.
//
// An orthogonal matrix keeps the length of the vectors that it turns, and so the logarithms of the
// lengths have the same means, deviations and correlations in public and in disguised images. Which
// position is which is then an assignment: by a position's own statistics first (Hungarian), then
// by its correlations with all others (quadratic assignment, by Frank and Wolfe's steps: Vogelstein
// et al., "Fast Approximate Quadratic Programming for Graph Matching", PLOS ONE 2015).
//
// Images and their mirror images have nearly the same statistics: what a position's own statistics
// give is a mixture of both layouts. Two pairs of positions that mirror each other say whether they
// are of the same layout, and the signs of these votes (signs.h) make it one.
#pragma once

#include <cstdint>
#include <vector>

#include "attacks/disguise/block_vectors.h"

namespace ens {

inline constexpr int64_t kMostLengths = 4096;  // of an image, that can be compared with each other

// x: vectors of public images [t,B,k,d] in 0..255, without noise; y: of disguised rows. For every
// position where its block is; the layout that was found, then its mirror images. `seed` draws
// noise for the public images.
std::vector<std::vector<int64_t>> find_layouts(const BlockVectors& blocks,
                                               const DisguiseConfig& disguise, const Tensor& x,
                                               const Tensor& y, uint64_t seed);

}  // namespace ens
