// SPDX-License-Identifier: Apache-2.0
// Distance correlation: how much of the distances between images is left in the distances between
// their features (Szekely, Rizzo, Bakirov, "Measuring and testing dependence by correlation of
// distances", Ann. Statist. 2007), as a penalty (Vepakomma et al., "NoPeek", ICDMW 2020) and as a
// measure.
#pragma once

#include "nn/autograd/var.h"

namespace ens {

// Of the rows of x and y [n, ...], n >= 2: with a_jk = |x_j - x_k|, A = a minus its row means and
// column means plus its mean, B the same of y,
//   dCor = sqrt( mean(A B) / sqrt( mean(A A) mean(B B) ) )    in [0, 1], [1] float32.
// Differentiable in both. Computed in float32; a small number under every root keeps gradients
// finite where distances vanish.
Var distance_correlation(const Var& x, const Var& y);

// The bias-corrected form (Szekely, Rizzo, "Partial distance correlation with methods for
// dissimilarities", Ann. Statist. 2014: U-centred distances), n >= 4, as sign(R) sqrt(|R|) of its
// square R: 0 on average where x and y are independent, whatever their dimensions. The plain form
// rises with the dimension, so much that independent noise in the feature would look like a leak.
double unbiased_distance_correlation(const Tensor& x, const Tensor& y);

}  // namespace ens
