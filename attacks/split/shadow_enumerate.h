// Shadow attacks over all subsets of the server nets (arXiv 2401.10859, section 3: what does it
// cost to try them all?).
//
// Every subset gets a cheap shadow (screen_epochs on screen_images, from a head trained once for
// all nets), those with the lowest held-out cross-entropy get the full attack: at most
// attack.shadow_enumerate.keep reconstructions, the attacker's favourite of the cheap round first.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ens {

// The subsets of {0, .., n-1} that have one of the `sizes` (empty: 1 to n): smaller ones first, in
// lexicographic order within a size, each ascending. Usage Error for a size outside [1, n], or if
// there are more than 100,000.
std::vector<std::vector<int>> enumerate_subsets(int n, const std::vector<int>& sizes);

// The indices of the `keep` highest merits (all, if there are fewer), the best first. Of equal ones
// the earlier wins; what is not a number comes last.
std::vector<size_t> best_of(std::span<const double> merits, int keep);

}  // namespace ens
