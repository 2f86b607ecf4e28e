// SPDX-License-Identifier: Apache-2.0
// Shadow attacks over all subsets of the server nets (arXiv 2401.10859, section 3: what does it
// cost to try them all?).
//
// Every subset gets a cheap shadow (screen_epochs on screen_images, from a head trained once for
// all nets), those with the lowest held-out cross-entropy get the full shadow, at most
// attack.shadow_enumerate.keep, and the best of these a decoder (attack.candidates).
#pragma once

#include <cstdint>
#include <vector>

namespace ens {

// The subsets of {0, .., n-1} that have one of the `sizes` (empty: 1 to n): smaller ones first, in
// lexicographic order within a size, each ascending. Usage Error for a size outside [1, n], or if
// there are more than 100,000.
std::vector<std::vector<int>> enumerate_subsets(int n, const std::vector<int>& sizes);

}  // namespace ens
